"""The README's pictures: `make shots` takes them of a service of its own, with the tests' browser."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from playwright.async_api import Browser, Page, expect

from app.database import connect
from app.embedded import embedded_postgres
from app.migrations import migrate
from app.rollups import roll_up_once
from app.settings import Settings
from app.stores import service_keys
from tests.browsers import chromium, visitor
from tests.live import replica
from tests.processes import new_data_dir

DOCS = Path(__file__).parent.parent / "docs"
