from collections.abc import Mapping

TILE_SIZE: int
ALPHA_MIN: float
ALPHA_MAX: float
TRANSMITTANCE_MIN: float

def registrations() -> Mapping[str, object]: ...
def isa() -> str: ...
def exit_on_abort(message: str, code: int) -> None: ...
def abort_as_before() -> None: ...
def workspace_bytes(
    target: str,
    is_double: bool,
    n_batch: int,
    n_cameras: int,
    n: int,
    width: int,
    height: int,
    n_channels: int,
    capacity: int,
    deterministic: bool,
) -> int: ...
