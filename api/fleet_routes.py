"""The paths of models and workers."""

from __future__ import annotations

from api import fleet, models
from api.fleet_schemas import (
    AssignmentList,
    DecisionsQuery,
    ModelDetail,
    ModelList,
    ModelsHealth,
    RegistrationDocument,
    SettleQuery,
    WorkerList,
)
from api.route import API, Route
from nexus_jobs.models import ModelConfig

FLEET_ROUTES = (
    Route(
        name="list_models",
        method="GET",
        path=f"{API}/models",
        view=models.listing,
        summary="The registered models and how they fare on the workers",
        answers={200: ModelList},
    ),
    Route(
        name="register_model",
        method="POST",
        path=f"{API}/models",
        view=models.register,
        summary="Register a model: 201, or 200 for a new version or the same again",
        body=ModelConfig,
        answers={200: RegistrationDocument, 201: RegistrationDocument},
    ),
    Route(
        name="show_model",
        method="GET",
        path=f"{API}/models/<string:name>",
        view=models.show,
        summary="A model, its config and its versions",
        answers={200: ModelDetail},
    ),
    Route(
        name="remove_model",
        method="DELETE",
        path=f"{API}/models/<string:name>",
        view=models.remove,
        summary="Take a model off the registry, when its jobs have ended",
        answers={204: None},
    ),
    Route(
        name="load_model",
        method="POST",
        path=f"{API}/models/<string:name>/load",
        view=models.load,
        summary="Have a model on at least one worker, always",
        query=SettleQuery,
        answers={202: ModelDetail},
    ),
    Route(
        name="unload_model",
        method="POST",
        path=f"{API}/models/<string:name>/unload",
        view=models.unload,
        summary="Have a model on no worker; its jobs are accepted and wait",
        query=SettleQuery,
        answers={202: ModelDetail},
    ),
    Route(
        name="auto_model",
        method="POST",
        path=f"{API}/models/<string:name>/auto",
        view=models.leave_to_scheduler,
        summary="Have a model loaded and unloaded as there is work for it",
        query=SettleQuery,
        answers={202: ModelDetail},
    ),
    Route(
        name="list_workers",
        method="GET",
        path=f"{API}/workers",
        view=fleet.workers,
        summary="The workers and what they do, some seconds old at most",
        answers={200: WorkerList},
    ),
    Route(
        name="list_assignments",
        method="GET",
        path=f"{API}/assignments",
        view=fleet.assignments,
        summary="Which worker is to serve what, the latest decisions and why",
        query=DecisionsQuery,
        answers={200: AssignmentList},
    ),
    Route(
        name="health_models",
        method="GET",
        path="/health/models",
        view=models.health,
        summary="How the models fare: 503 if one failed on every worker that has it",
        answers={200: ModelsHealth, 503: ModelsHealth},
    ),
)
