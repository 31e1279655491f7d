"""The page at `/`: a few files that ask the HTTP API what anyone may ask it. Knows no model and no service."""

from pathlib import Path
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import FileResponse

FOLDER = Path(__file__).parent
KINDS = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
REVALIDATED = {"cache-control": "no-cache"}
"""A browser keeps the files but asks whether they are still the same (ETag), so an update shows at once."""

router = APIRouter(include_in_schema=False)


@router.get("/")
def index() -> FileResponse:
    """The page."""
    return FileResponse(FOLDER / "index.html", headers=REVALIDATED)


@router.get("/page/{name}")
def part(name: Literal["page.js", "pictures.js", "combobox.js", "page.css", "icon.svg"]) -> FileResponse:
    """What the page consists of."""
    return FileResponse(FOLDER / name, media_type=KINDS[Path(name).suffix], headers=REVALIDATED)
