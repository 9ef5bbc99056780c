from collections.abc import Mapping

TILE_SIZE: int
ALPHA_MIN: float
ALPHA_MAX: float
TRANSMITTANCE_MIN: float

def registrations() -> Mapping[str, object]: ...
def isa() -> str: ...
