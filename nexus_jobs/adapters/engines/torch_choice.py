"""Chooses next tokens where the logits are, so that a large vocabulary stays on the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from nexus_jobs.adapters.engines.sampling import Sampler, choose


def choose_on_device(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """As `choose`; `logits` [rows, vocabulary] is overwritten. All rows have the same ends.

    Only rows that are sampled or penalised are fetched; of the others one number each.
    """
    unending = [row for row, sampler in enumerate(samplers) if not sampler.may_end]
    if unending:
        rows = torch.tensor(unending, device=logits.device)
        ends = torch.tensor(samplers[0].eos, dtype=torch.long, device=logits.device)
        logits[rows[:, None], ends] = -torch.inf
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    fetched = [row for row, sampler in enumerate(samplers) if not _is_plain(sampler)]
    if fetched:
        theirs = [samplers[row] for row in fetched]
        chosen = choose(logits[fetched].float().cpu().numpy(), theirs)
        for row, token in zip(fetched, chosen, strict=True):
            tokens[row] = token
    return tokens


def _is_plain(sampler: Sampler) -> bool:
    """Whether the row takes the likeliest token as it is."""
    return sampler.params.temperature == 0 and sampler.params.repetition_penalty == 1
