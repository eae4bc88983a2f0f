"""Photos: decoding, the area filter, undistortion against exact geometry."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from learn2splat.data.base import BadSceneError
from learn2splat.data.lens import MODELS, Lens
from learn2splat.data.photos import LazyPhotos, PhotoFile, area_filter, decode_photo, fit_photo, photo_size

RNG = np.random.default_rng(0)


# ---- the area filter


@given(factor=st.integers(1, 8), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_integer_factors_give_the_block_mean(factor: int, height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height * factor, width * factor, 3), dtype=np.uint8)
    blocks = image.reshape(height, factor, width, factor, 3).astype(np.float64).mean(axis=(1, 3))
    assert np.abs(area_filter(image, width, height) - blocks).max() <= 0.5 + 1e-4


def coverage(source: int, target: int) -> np.ndarray:
    """[target, source] share of each target pixel that each source pixel covers."""
    edges = np.arange(target + 1) * source / target
    low, high = np.arange(source), np.arange(source) + 1
    overlap = np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None])
    return np.clip(overlap, 0, None) * target / source


@pytest.mark.parametrize("size", [(13, 9), (20, 11), (33, 24)])
def test_any_factor_gives_the_mean_over_the_covered_area(size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (25, 37, 3), dtype=np.uint8)
    width, height = size
    expected = np.einsum("yh,hwc,xw->yxc", coverage(25, height), image.astype(np.float64), coverage(37, width))
    assert np.abs(area_filter(image, width, height) - expected).max() <= 0.51


# ---- decoding


def save(path: Path, array: np.ndarray, mode: str | None = None, **options: object) -> Path:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **options)  # type: ignore[arg-type]
    return path


def test_grey_and_colour_keep_their_values(tmp_path: Path) -> None:
    rgb = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert (decode_photo(save(tmp_path / "rgb.png", rgb)) == rgb).all()
    assert (decode_photo(save(tmp_path / "grey.png", rgb[..., 0])) == rgb[..., :1]).all()
    black_white = decode_photo(save(tmp_path / "bit.png", rgb[..., 0], "1"))
    assert set(np.unique(black_white)) <= {0, 255}
    assert np.abs(decode_photo(save(tmp_path / "x.jpg", np.full((8, 8, 3), 90, np.uint8), "CMYK")) - 90.0).max() <= 3


def test_sixteen_bits_become_eight_by_rounding(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 257 * 100 + 128, 257 * 100 + 129, 65535]], dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    assert decode_photo(tmp_path / "grey.png")[0, :, 0].tolist() == [0, 1, 100, 101, 255]
    rgb = RNG.integers(0, 65536, (4, 6, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "rgb.png"), rgb[..., ::-1])
    assert np.abs(decode_photo(tmp_path / "rgb.png") - rgb / 257.0).max() <= 1.0


def test_alpha_shows_the_background_before_any_filtering(tmp_path: Path) -> None:
    rgba = RNG.integers(0, 256, (4, 6, 4), dtype=np.uint8)
    alpha = rgba[..., 3:] / 255.0
    path = save(tmp_path / "rgba.png", rgba)
    assert np.abs(decode_photo(path) - rgba[..., :3] * alpha).max() <= 0.51
    blended = rgba[..., :3] * alpha + 255 * np.array([1.0, 0.5, 0.0]) * (1 - alpha)
    assert np.abs(decode_photo(path, (1.0, 0.5, 0.0)) - blended).max() <= 0.51
    shrunk = LazyPhotos([PhotoFile(path, 3, 2)], background=(1.0, 0.5, 0.0))[0].numpy()
    assert np.abs(shrunk - blended.reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))).max() <= 1.01
    grey_alpha = decode_photo(save(tmp_path / "la.png", rgba, "LA"), (1.0, 1.0, 1.0))
    assert (grey_alpha >= 255 - rgba[..., 3:]).all()


def test_palettes_are_resolved(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), mode="P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "opaque.png")
    assert decode_photo(tmp_path / "opaque.png")[0].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    image.save(tmp_path / "clear.png", transparency=1)
    assert decode_photo(tmp_path / "clear.png")[0].tolist() == [[10, 20, 30], [0, 0, 0], [70, 80, 90]]


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert photo_size(tmp_path / "turned.jpg") == (6, 4)
    assert decode_photo(tmp_path / "turned.jpg").shape == (4, 6, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".bmp"])
def test_truncated_and_junk_photos_are_found_without_decoding_sound_ones(tmp_path: Path, suffix: str) -> None:
    whole = save(tmp_path / f"whole{suffix}", RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8))
    assert photo_size(whole) == (48, 64)
    data = whole.read_bytes()
    broken = tmp_path / f"broken{suffix}"
    for content in (b"", b"junk" * 50, data[: len(data) // 2], data[:-3000], bytes(len(data))):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be decoded"):
            photo_size(broken)
    trailer = tmp_path / f"trailer{suffix}"
    trailer.write_bytes(data + bytes(10_000))  # motion photos carry a video behind the picture
    assert photo_size(trailer) == (48, 64)


def test_a_photo_that_announces_more_than_it_can_hold_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    header = b"P6 9000 9000 255\n"  # 243 MB of pixels
    (tmp_path / "a.ppm").write_bytes(header)
    for read in (photo_size, decode_photo):
        with pytest.raises(ValueError, match=rf"announces 9000x9000 pixels and holds {len(header)} bytes"):
            read(tmp_path / "a.ppm")
    blank = save(tmp_path / "blank.png", np.zeros((2200, 2200, 3), np.uint8))  # as compressible as photos get
    assert photo_size(blank) == (2200, 2200)


def test_a_photo_that_breaks_after_loading_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    photos = LazyPhotos([PhotoFile(path, 8, 8), PhotoFile(path, 8, 8)])
    assert photos[0].shape == (8, 8, 3)
    path.write_bytes(b"junk")
    assert photos[0].shape == (8, 8, 3), "it was decoded before"
    with pytest.raises(BadSceneError, match=r"a\.png cannot be decoded"):
        photos[1]
    save(path, np.zeros((4, 8, 3), np.uint8))
    with pytest.raises(BadSceneError, match="changed its size to 8x4"):
        photos[1]


# ---- fitting views to photos


def test_intrinsics_follow_the_pixels(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.zeros((75, 100, 3), np.uint8))
    lens = Lens("PINHOLE", 401, 301, (400.0, 410.0, 190.0, 160.0))  # photos reduced by four, rounded down
    file, K = fit_photo(path, lens, max_size=33)
    assert (file.width, file.height, file.lens) == (33, 25, None)
    x, y = 33 / 401, 25 / 301
    assert np.allclose(K, np.array([[400 * x, 0, 190 * x], [0, 410 * y, 160 * y], [0, 0, 1]]), atol=1e-12)
    assert fit_photo(path, lens, max_size=1600)[0].width == 100, "photos are never enlarged"


@pytest.mark.parametrize(
    ("size", "says"),
    [((400, 297), "400x300"), ((200, 153), "200x153"), ((150, 200), "turned"), ((200, 200), "cropped")],
)
def test_another_shape_than_the_camera_is_refused(tmp_path: Path, size: tuple[int, int], says: str) -> None:
    path = save(tmp_path / "a.png", np.zeros((size[1], size[0], 3), np.uint8))
    with pytest.raises(ValueError, match=says):
        fit_photo(path, Lens("SIMPLE_PINHOLE", 400, 300, (300.0, 200.0, 150.0)), 1600)


# ---- lenses: COLMAP's models, written down a second time

PINHOLE = (120.0, 125.0, 83.0, 58.0)
SIMPLE = (120.0, 83.0, 58.0)
K6 = (0.05, -0.02, 0.01, -0.004, 0.002, -0.001)
LENSES = {
    "SIMPLE_PINHOLE": SIMPLE,
    "PINHOLE": PINHOLE,
    "SIMPLE_RADIAL": (*SIMPLE, -0.2),
    "RADIAL": (*SIMPLE, 0.15, -0.05),
    "OPENCV": (*PINHOLE, -0.2, 0.05, 0.01, -0.008),
    "OPENCV_FISHEYE": (*PINHOLE, 0.05, -0.02, 0.01, -0.004),
    "FULL_OPENCV": (*PINHOLE, -0.2, 0.05, 0.01, -0.008, 0.01, 0.1, -0.05, 0.02),
    "FOV": (*PINHOLE, 0.9),
    "SIMPLE_RADIAL_FISHEYE": (*SIMPLE, -0.05),
    "RADIAL_FISHEYE": (*SIMPLE, -0.05, 0.02),
    "THIN_PRISM_FISHEYE": (*PINHOLE, 0.05, -0.02, 0.003, -0.004, 0.01, -0.004, 0.005, -0.006),
    "RAD_TAN_THIN_PRISM_FISHEYE": (*PINHOLE, *K6, 0.003, 0.004, 0.005, -0.006, 0.004, 0.002),
    "SIMPLE_DIVISION": (*SIMPLE, -0.2),
    "DIVISION": (*PINHOLE, -0.2),
    "SIMPLE_FISHEYE": SIMPLE,
    "FISHEYE": PINHOLE,
    "EUCM": (*PINHOLE, 0.6, 1.1),
}


def polynomial(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """1 + c1 x + c2 x^2 + ..."""
    return 1 + sum(c * x ** (i + 1) for i, c in enumerate(coefficients))


def brute_force_project(model: str, params: tuple[float, ...], rays: np.ndarray) -> np.ndarray:
    """Pixels [N, 2] of rays [N, 2], from the formulas in COLMAP's documentation."""
    simple = model.startswith("SIMPLE") or model in ("RADIAL", "RADIAL_FISHEYE")
    f, c, k = (params[:1] * 2, params[1:3], params[3:]) if simple else (params[:2], params[2:4], params[4:])
    x, y = rays.T
    if "FISHEYE" in model:
        r = np.hypot(x, y)
        theta = np.arctan(r)
        x, y = x * theta / r, y * theta / r
    r2 = x * x + y * y
    bent, dx, dy = np.ones_like(x), 0.0, 0.0
    if model in ("SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"):
        bent = polynomial(r2, np.array(k))
    if model in ("OPENCV", "FULL_OPENCV", "THIN_PRISM_FISHEYE"):
        dx = 2 * k[2] * x * y + k[3] * (r2 + 2 * x * x)
        dy = 2 * k[3] * x * y + k[2] * (r2 + 2 * y * y)
        bent = polynomial(r2, np.array(k[:2]))
    if model == "FULL_OPENCV":
        bent = polynomial(r2, np.array([*k[:2], k[4]])) / polynomial(r2, np.array(k[5:]))
    if model == "THIN_PRISM_FISHEYE":
        bent = polynomial(r2, np.array([*k[:2], *k[4:6]]))
        dx, dy = dx + k[6] * r2, dy + k[7] * r2
    if model == "RAD_TAN_THIN_PRISM_FISHEYE":
        bent = polynomial(r2, np.array(k[:6]))
        x, y, bent = x * bent, y * bent, np.ones_like(x)
        r2 = x * x + y * y
        dx = k[6] * (r2 + 2 * x * x) + 2 * k[7] * x * y + k[8] * r2 + k[9] * r2**2
        dy = k[7] * (r2 + 2 * y * y) + 2 * k[6] * x * y + k[10] * r2 + k[11] * r2**2
    if model == "FOV":
        r = np.sqrt(r2)
        bent = np.arctan(2 * r * np.tan(k[0] / 2)) / (r * k[0])
    if "DIVISION" in model:
        bent = 2 / (1 + np.sqrt(1 - 4 * k[0] * r2))
    if model == "EUCM":
        bent = 1 / (k[0] * np.sqrt(k[1] * r2 + 1) + 1 - k[0])
    return np.stack([f[0] * (x * bent + dx) + c[0], f[1] * (y * bent + dy) + c[1]], axis=-1)


def pattern(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A smooth bright picture [..., 3] over pixels [..., 2]: where the photo was sampled can be read off it."""
    x, y = pixels[..., 0] / width, pixels[..., 1] / height
    return np.stack([40 + 200 * x, 40 + 200 * y, 140 + 60 * np.sin(6 * x) * np.cos(5 * y)], axis=-1)


def pixel_centers(width: int, height: int) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), axis=-1)


@pytest.mark.parametrize("model", LENSES)
def test_undistorted_views_show_what_exact_geometry_says(tmp_path: Path, model: str) -> None:
    width, height = 160, 120
    lens = Lens(model, width, height, LENSES[model])
    photo = np.rint(pattern(pixel_centers(2 * width, 2 * height) / 2, width, height)).astype(np.uint8)
    path = save(tmp_path / "a.png", photo)  # twice the size that the camera was calibrated at
    for max_size in (320, 160, 96):
        file, K = fit_photo(path, lens, max_size)
        view = LazyPhotos([file])[0].numpy().astype(np.float64)
        pixels = pixel_centers(file.width, file.height).reshape(-1, 2)
        rays = (pixels - K[:2, 2]) / np.diagonal(K)[:2]
        expected = pattern(brute_force_project(model, LENSES[model], rays), width, height)
        assert np.abs(view.reshape(-1, 3) - expected).max() < 2.6
        assert np.abs(view.reshape(-1, 3) - expected).mean() < 0.6
        assert np.allclose(K[:2, 2], np.array(lens.principal_point) * file.width / width)


@pytest.mark.parametrize("model", [name for name in LENSES if "PINHOLE" not in name])
def test_the_undistorted_view_is_the_widest_without_borders(model: str) -> None:
    lens = Lens(model, 160, 120, LENSES[model])
    where = lens.undistortion_map(160, 120)
    assert lens.covers_view
    gap = 0.5 + min(where.min(), 159 - where[0].max(), 119 - where[1].max())
    assert gap > -0.01
    corner = np.linalg.norm(np.array(lens.principal_point) / lens.focal) / lens.zoom
    assert gap < 1.0 or np.arctan(corner) > np.deg2rad(55), "touches the photo's border, or is as wide as allowed"


def test_every_model_has_a_lens_or_a_reason() -> None:
    assert {model.name for model in MODELS.values()} == {*LENSES, "EQUIRECTANGULAR"}
    with pytest.raises(ValueError, match="perspective views"):
        Lens("EQUIRECTANGULAR", 100, 50, (100.0, 50.0))


def test_model_table_agrees_with_pycolmap() -> None:
    pycolmap = pytest.importorskip("pycolmap")
    for number, model in MODELS.items():
        camera = pycolmap.Camera.create_from_model_id(1, pycolmap.CameraModelId(number), 100.0, 80, 60)
        assert (camera.model_name, len(camera.params)) == (model.name, model.parameters)
        if model.focals and model.name != "FOV":  # pycolmap's default for FOV is a distorted lens
            assert len(camera.focal_length_idxs()) == model.focals
            assert Lens(model.name, 80, 60, tuple(camera.params)).is_pinhole == (model.pinhole_without is not None)


def test_a_lens_that_folds_is_zoomed_in_up_to_the_fold() -> None:
    lens = Lens("SIMPLE_RADIAL", 1000, 800, (500.0, 500.0, 400.0, -0.3))
    corner = np.hypot(500, 400) / 500 / lens.zoom
    assert corner == pytest.approx(1 / np.sqrt(0.9), rel=1e-3), "r - 0.3 r^3 grows up to there"


def test_an_undistorted_model_is_not_resampled(tmp_path: Path) -> None:
    image = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    path = save(tmp_path / "a.png", image)
    file, K = fit_photo(path, Lens("OPENCV", 32, 24, (30.0, 31.0, 15.0, 12.5, 0.0, 0.0, 0.0, 0.0)), 1600)
    assert file.lens is None
    assert (LazyPhotos([file])[0].numpy() == image).all()
    assert np.allclose(K, np.array([[30, 0, 15], [0, 31, 12.5], [0, 0, 1]]))


@settings(max_examples=40, deadline=None)
@given(
    model=st.sampled_from(sorted(LENSES)),
    data=st.data(),
)
def test_any_accepted_lens_gives_finite_maps(model: str, data: st.DataObject) -> None:
    floats = st.floats(allow_nan=False, allow_infinity=False)
    count = MODELS[next(i for i, m in MODELS.items() if m.name == model)]
    extras = data.draw(st.lists(floats, min_size=count.parameters, max_size=count.parameters))
    kept = LENSES[model][: count.focals + 2]
    lens = Lens(model, 16, 12, (*kept, *extras[count.focals + 2 :]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(lens.undistortion_map(16, 12)).all()
        assert np.isfinite(lens.pinhole()).all()
        assert lens.covers_view in (True, False)
