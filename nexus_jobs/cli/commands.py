"""All commands of `nexus`, put together."""

from __future__ import annotations

import typer

from nexus_jobs.cli import bulk, chaos, fleet, jobs, models, roles, routes, simulate, up

app = typer.Typer(
    help="Runs prompts on your own hardware: one at a time or a million in a file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(up.up)
app.command()(chaos.chaos)
app.command()(simulate.simulate)
app.add_typer(bulk.app, name="bulk")
app.add_typer(jobs.app, name="jobs")
app.add_typer(models.app, name="models")
app.add_typer(routes.app, name="routes")
app.command()(fleet.workers)
app.add_typer(fleet.scheduler_app, name="scheduler", rich_help_panel="Single roles")
for role in (roles.api, roles.worker, roles.migrate, roles.flower):
    app.command(rich_help_panel="Single roles")(role)
