"""The plan that comes with pengi-rt: a small demo model, used when no plan is named."""

import logging
import os
from pathlib import Path

from pengi_rt.config.checked import as_path
from pengi_rt.errors import PlanError

logger = logging.getLogger(__name__)

# Not importlib.resources: a plan is mapped, so it must be a file; and if the package is spread over
# two folders (editable installs), importlib.resources names the wrong folder for a missing file.
LOCATION = Path(__file__).with_name("demo.plan")


def builtin_plan() -> Path:
    """The path of the built-in engine file.

    Raises:
        PlanError: this installation has no built-in plan.
    """
    if not LOCATION.is_file():
        raise PlanError(
            f"no engine given, and this installation has no built-in one ({LOCATION}): "
            "name a plan made by pengi-rt export (--engine PLAN)"
        )
    return LOCATION


def named_or_builtin(path: str | os.PathLike[str] | None) -> Path:
    """``path``; or, without a path, the built-in engine file, with a warning about what it is.

    Raises:
        PlanError: no path is given, and this installation has no built-in plan.
        UsageError: ``path`` is not a path.
    """
    if path is not None:
        return as_path("the plan", path)
    plan = builtin_plan()
    logger.warning(
        "no engine given: using the built-in demo model, trained on synthesized sounds only "
        "(docs/demo-model.md)"
    )
    return plan
