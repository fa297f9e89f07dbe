"""What every endpoint needs: the engine, the tokenizer and the options."""

from __future__ import annotations

from dataclasses import dataclass

from potluck.coordinator.api.errors import ApiError
from potluck.coordinator.api.options import ApiOptions
from potluck.coordinator.api.texts import Texts
from potluck.coordinator.generation import Engine


@dataclass(frozen=True, slots=True)
class Service:
    """The parts behind the endpoints; `started` is when the model came up, in seconds since 1970."""

    engine: Engine
    texts: Texts
    options: ApiOptions
    started: int

    def models(self) -> tuple[str, ...]:
        """The ids that the served model answers to, its own first."""
        others = (alias for alias in self.options.aliases if alias != self.engine.model)
        return (self.engine.model, *others)

    def check_model(self, model: str) -> None:
        """Raise ApiError 404 unless this model is served."""
        served = self.models()
        if model not in served:
            names = ", ".join(served)
            message = f"the model {model[:100]!r} is not served here; served: {names}"
            raise ApiError(message, status=404, param="model", code="model_not_found")
