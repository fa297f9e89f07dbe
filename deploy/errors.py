"""Which errors are a user's to read: each is one line that says whose fault it is and what to do."""

from __future__ import annotations


def known_errors() -> tuple[type[Exception], ...]:
    """All errors that the command shows as one line. Imported late: most commands need few of these rooms."""
    from potluck.coordinator.api.server import CannotBind
    from potluck.coordinator.calls import CallError
    from potluck.coordinator.deployment import DeploymentError
    from potluck.coordinator.fabric import FabricError, WorkerError
    from potluck.coordinator.generation import GenerationError
    from potluck.deploy.fleet_files import FleetFileError
    from potluck.deploy.machine import CalibrationError
    from potluck.deploy.status import StatusError
    from potluck.models.checkpoint import CheckpointError
    from potluck.models.families import UnsupportedModel
    from potluck.models.source import ModelNotFound
    from potluck.models.tokenizer import TemplateError, TokenizerError
    from potluck.planner.solve import DoesNotFit
    from potluck.planner.validate import PlanError
    from potluck.worker.shard_manifest import ShardFileError

    models = (CheckpointError, UnsupportedModel, ModelNotFound, TemplateError, TokenizerError)
    coordinator = (CannotBind, CallError, DeploymentError, FabricError, GenerationError, WorkerError)
    deploy = (CalibrationError, DoesNotFit, FleetFileError, PlanError, ShardFileError, StatusError)
    return (*models, *coordinator, *deploy, OSError, ValueError)
