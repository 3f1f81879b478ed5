"""What every section of the configuration has in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=0, le=65535)]


SYSTEM_STATE = Path("/var/lib/edge-gateway")


ModelT = TypeVar("ModelT", bound=BaseModel)


class Settings(BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
