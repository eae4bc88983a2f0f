"""Finds, loads and types the shared object that suits this CPU.

One object per instruction set is installed beside this file; CMakeLists.txt builds them from csrc/. The environment
variable ``LEARN2SPLAT_ISA`` names the one of `INSTRUCTION_SETS` to use; ``LEARN2SPLAT_NATIVE_DIR`` is a directory to
search before the package.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
from ctypes import POINTER, c_double, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# needed flags of /proc/cpuinfo, best first
INSTRUCTION_SETS: dict[str, frozenset[str]] = {
    "x86-64-v4": frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx2", "bmi2", "fma"}),
    "x86-64-v3": frozenset({"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "abm"}),
    "x86-64": frozenset(),
    "generic": frozenset(),
}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
INSTALL_HINT = "install a C++ compiler (Debian and Ubuntu: `apt install g++`) and reinstall learn2splat"


class Scene(ctypes.Structure):
    """L2sScene of csrc/api.h, which documents the fields of this and the following structures."""

    _fields_ = (
        *((name, c_void_p) for name in ("means", "log_scales", "quats", "logit_opacities", "sh")),
        ("count", c_int64),
        ("sh_stored", c_int32),
        ("sh_degree", c_int32),
    )


class CameraBatch(ctypes.Structure):
    """L2sCameras."""

    _fields_ = (
        *((name, c_void_p) for name in ("intrinsics", "cam_from_world", "background")),
        *((name, c_int32) for name in ("views", "width", "height")),
    )


class Settings(ctypes.Structure):
    """L2sSettings."""

    _fields_ = tuple((name, c_float) for name in ("near_plane", "far_plane", "eps2d", "max_alpha"))


class Images(ctypes.Structure):
    """L2sImages."""

    _fields_ = tuple((name, c_void_p) for name in ("image", "alpha", "depth", "radii"))


class Cotangents(ctypes.Structure):
    """L2sCotangents."""

    _fields_ = tuple((name, c_void_p) for name in ("image", "alpha", "depth"))


class Gradient(ctypes.Structure):
    """L2sGradient."""

    _fields_ = tuple((name, c_void_p) for name in ("means", "log_scales", "quats", "logit_opacities", "sh"))


class Gradients(ctypes.Structure):
    """L2sGradients."""

    _fields_ = (
        *((name, Gradient) for name in ("total", "view_squares", "per_view")),
        ("means2d", c_void_p),
    )


class Tangent(ctypes.Structure):
    """L2sTangent."""

    _fields_ = Gradient._fields_


class Curvature(ctypes.Structure):
    """L2sCurvature."""

    _fields_ = (("diagonal", Gradient), ("blocks", c_void_p))


class Statistics(ctypes.Structure):
    """L2sStatistics."""

    _fields_ = (
        *((name, c_int64) for name in ("tile_entries", "forward_lanes", "backward_lanes")),
        *((name, c_double) for name in ("forward_raster_seconds", "backward_raster_seconds")),
    )


class Correction(ctypes.Structure):
    """L2sCorrection."""

    _fields_ = (("table", c_void_p), ("last", c_int32))


class AdamGroup(ctypes.Structure):
    """L2sAdamGroup."""

    _fields_ = (
        *((name, c_void_p) for name in ("grad", "m", "v", "m_out", "v_out", "update")),
        *((name, c_void_p) for name in ("ages", "row_rates", "column_rates")),
        ("rows", c_int64),
        ("width", c_int32),
    )


class AdamConstants(ctypes.Structure):
    """L2sAdamConstants."""

    _fields_ = (
        *((name, c_float) for name in ("beta1", "beta2", "eps", "damping")),
        *((name, Correction) for name in ("correct_m", "correct_v")),
    )


class RuleParameter(ctypes.Structure):
    """L2sRuleParameter."""

    _fields_ = (
        *((name, c_void_p) for name in ("grad", "m", "m_slow", "v", "v_fast")),
        *((name, c_void_p) for name in ("m_out", "m_slow_out", "v_out", "v_fast_out", "update")),
        *((name, c_void_p) for name in ("column_rates", "slow", "newest", "fast_scale", "shared_scale")),
        *((name, c_void_p) for name in ("squares", "gains", "ages")),
        ("rows", c_int64),
        *((name, c_int32) for name in ("width", "full_width", "groups", "group_stride")),
        ("group_ends", c_int32 * 2),
        ("products", c_void_p),
        ("product_stride", c_int64),
    )


class GainParameter(ctypes.Structure):
    """L2sGainParameter."""

    _fields_ = (
        *((name, c_void_p) for name in ("grad", "squares", "ages")),
        ("squares_stride", c_int64),
        *((name, c_int32) for name in ("width", "groups", "first_group")),
        ("group_ends", c_int32 * 2),
    )


class Gains(ctypes.Structure):
    """L2sGains."""

    _fields_ = (
        *((name, c_void_p) for name in ("log_scales", "footprint", "visibility", "visible", "powers")),
        *((name, c_void_p) for name in ("squares_out", "visibility_out", "gains", "traits", "sums")),
        ("rows", c_int64),
        *((name, c_float) for name in ("decay_v", "decay_visibility", "most", "most_log_gain", "tiny")),
        ("correct_v", Correction),
    )


class RuleConstants(ctypes.Structure):
    """L2sRuleConstants."""

    _fields_ = (
        *((name, c_float) for name in ("m", "m_slow", "v", "v_fast", "eps", "damping")),
        *((name, Correction) for name in ("correct_m", "correct_m_slow", "correct_v", "correct_v_fast")),
    )


def correction(table: Tensor) -> Correction:
    """``table`` [A] float32 by age, which the caller keeps alive."""
    return Correction(table.data_ptr(), len(table) - 1)


def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it was not built; see `why_missing`."""
    return _loaded()[0]


def instruction_set() -> str:
    """Which of `INSTRUCTION_SETS` is loaded, or "" without a library."""
    return _loaded()[1]


def why_missing() -> str:
    """Why there is no library; "" when there is one."""
    return _loaded()[2]


def thread_count(work: int) -> int:
    """How many threads to use for ``work`` elementary steps: torch's number, or 1 where starting them costs more."""
    return torch.get_num_threads() if work > 20_000 else 1


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str, str]:
    """(library, instruction set, reason why missing); importing torch first makes all of us share one libgomp."""
    wanted = os.environ.get("LEARN2SPLAT_ISA")
    if wanted and wanted not in INSTRUCTION_SETS:
        raise ValueError(f"LEARN2SPLAT_ISA={wanted!r} is not one of {', '.join(INSTRUCTION_SETS)}")
    reasons = []
    flags = _cpu_flags()
    for name in [wanted] if wanted else [name for name, needed in INSTRUCTION_SETS.items() if needed <= flags]:
        for directory in _directories():
            path = directory / f"rasterizer.{name}.so"
            if not path.exists():
                continue
            try:
                handle = _typed(ctypes.CDLL(str(path)))
                _keep_freed_memory()
                return handle, name, ""
            except OSError as error:
                reasons.append(f"{path}: {error}")
            except AttributeError:
                reasons.append(f"{path} is of another version than the Python files: reinstall learn2splat")
    return None, "", "; ".join(reasons) or "it was not built, as no C++ compiler was found when installing"


def _keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB that was freed: a step needs again what the last one freed, page by page."""
    process = ctypes.CDLL(None)
    if hasattr(process, "mallopt"):
        process.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        process.mallopt(M_MMAP_MAX, 0)  # however large: what is mapped is given back at once


def _directories() -> list[Path]:
    """Where to look: an editable install keeps Python files and built files apart, with both on the package's path."""
    override = os.environ.get("LEARN2SPLAT_NATIVE_DIR")
    return [
        Path(entry) for entry in ([override] if override else []) + list(importlib.import_module(__package__).__path__)
    ]


def _cpu_flags() -> frozenset[str]:
    """What this CPU can do, in the words of /proc/cpuinfo (which lists only what the kernel supports, too)."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine().lower() not in ("x86_64", "amd64") or not cpuinfo.exists():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def _typed(handle: ctypes.CDLL) -> ctypes.CDLL:
    signatures = {
        "l2s_vector_lanes": (c_int32, []),
        "l2s_peak_flops": (c_double, []),
        "l2s_render": (c_void_p, [POINTER(Scene), POINTER(CameraBatch), POINTER(Settings), POINTER(Images), c_int32]),
        "l2s_pull_back": (c_int32, [c_void_p, POINTER(Scene), POINTER(Cotangents), POINTER(Gradients), c_int32]),
        "l2s_push_forward": (c_int32, [c_void_p, POINTER(Scene), POINTER(Tangent), POINTER(Images), c_int32, c_void_p]),
        "l2s_curvature": (c_int32, [c_void_p, POINTER(Scene), c_void_p, POINTER(Curvature), c_int32]),
        "l2s_statistics": (None, [c_void_p, POINTER(Statistics)]),
        "l2s_free": (None, [c_void_p]),
        "l2s_adam_step": (None, [POINTER(AdamGroup), c_int32, POINTER(AdamConstants), c_int32]),
        "l2s_rule_step": (None, [POINTER(RuleParameter), c_int32, POINTER(RuleConstants), c_int32]),
        "l2s_rule_gains": (None, [POINTER(Gains), POINTER(GainParameter), c_int32, c_int32]),
        "l2s_photometric": (c_int32, [c_void_p] * 2 + [c_int32] * 3 + [c_float] + [c_void_p] * 3 + [c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(handle, name)
        function.restype = result
        function.argtypes = arguments
    return handle
