"""Every kind of image file gives the pixels a viewer would show, or an error that names it."""

import io
import struct
import sys
import warnings
import zlib

import numpy as np
import pytest
import torchvision
from PIL import Image, ImageFile, ImageOps

from deit_transfer.data.dataset import ImageSet
from deit_transfer.data.pipeline import decode
from deit_transfer.data.pipeline.decode import decode_image, decode_rgb, read_rgb
from deit_transfer.errors import ImageError

RAMP = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3) * 2


def encode(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def rgb(data, apply_exif=False, **options):
    pixels = decode_rgb(data, apply_exif=apply_exif, **options)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_rgb_is_exact(kind):
    np.testing.assert_array_equal(rgb(encode(Image.fromarray(RAMP), kind)), RAMP)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_rgb_is_near(kind):
    smooth = np.full((16, 16, 3), (200, 60, 30), np.uint8)
    pixels = rgb(encode(Image.fromarray(smooth), kind))
    assert np.abs(pixels.astype(int) - smooth).max() <= 8


def test_extension_does_not_matter(tmp_path):
    (tmp_path / "really_png.JPEG").write_bytes(encode(Image.fromarray(RAMP)))
    images = ImageSet.from_files(tmp_path, ["really_png.JPEG"], np.array([0]))
    np.testing.assert_array_equal(read_rgb(images, 0), RAMP)


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_bilevel_and_palette(mode):
    image = Image.fromarray(RAMP).convert(mode)
    np.testing.assert_array_equal(rgb(encode(image)), np.asarray(image.convert("RGB")))


def test_sixteen_bit_gray_is_scaled_not_clamped():
    values = np.array([[0, 128, 257], [32768, 65278, 65535]], np.uint16)
    found = decode_image(encode(Image.fromarray(values)), apply_exif=False)
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(found.pixels, np.stack([expected] * 3, axis=-1))
    assert found.pixels.max() == 255
    assert 0 < found.pixels[0, 2, 0] < 3
    assert any("8 bits" in note for note in found.notes)


def test_sixteen_bit_big_endian_tiff():
    values = np.array([[0, 257], [514, 65535]], ">u2")
    pixels = rgb(encode(Image.frombytes("I;16B", (2, 2), values.tobytes()), "TIFF"))
    np.testing.assert_array_equal(pixels[..., 0], [[0, 1], [2, 255]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257], [514, 1028]], np.int32), [[0, 1], [2, 4]]),
        (np.array([[-100, 0], [100, 100]], np.int32), [[0, 128], [255, 255]]),
        (np.array([[0, 1_000_000]], np.int32), [[0, 255]]),
        (np.array([[0.0, 0.5], [1.0, 0.25]], np.float32), [[0, 128], [255, 64]]),
        (np.array([[10.0, 20.0, 30.0]], np.float32), [[0, 128, 255]]),
        (np.array([[np.nan, 0.0], [1.0, np.inf]], np.float32), [[0, 0], [255, 0]]),
        (np.array([[7.0, 7.0]], np.float32), [[0, 0]]),
    ],
)
def test_wide_integers_and_floats_by_range(values, expected):
    np.testing.assert_array_equal(rgb(encode(Image.fromarray(values), "TIFF"))[..., 0], expected)


def test_alpha_is_composited_on_white():
    rgba = np.zeros((1, 4, 4), np.uint8)
    rgba[0, :, :3] = (255, 0, 0)
    rgba[0, :, 3] = (0, 255, 128, 51)
    found = decode_image(encode(Image.fromarray(rgba)), apply_exif=False)
    alpha = rgba[..., 3:] / 255
    expected = np.rint(rgba[..., :3] * alpha + 255 * (1 - alpha))
    assert np.abs(found.pixels - expected).max() <= 1
    assert tuple(found.pixels[0, 0]) == (255, 255, 255)
    assert any("transparency" in note for note in found.notes)


def test_gray_alpha_is_composited_on_white():
    la = np.array([[[0, 0], [0, 255]]], np.uint8)
    np.testing.assert_array_equal(rgb(encode(Image.fromarray(la)))[0], [[255] * 3, [0] * 3])


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_transparent_palette_color_becomes_white(kind):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = rgb(encode(image, kind, transparency=0))
    np.testing.assert_array_equal(pixels[0], [[255, 255, 255], [40, 50, 60]])


def test_cmyk_jpeg_is_accepted():
    image = Image.fromarray(np.full((16, 16, 3), (250, 20, 20), np.uint8)).convert("CMYK")
    pixels = rgb(encode(image, "JPEG", quality=95))
    assert np.abs(pixels.astype(int) - (250, 20, 20)).max() <= 12


def test_lab_tiff_is_accepted():
    pixels = rgb(encode(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"))  # white
    assert pixels.min() >= 254


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (3, 2), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = decode_image(data, apply_exif=False)
    assert tuple(found.pixels[0, 0]) == (255, 0, 0)
    assert any("first frame" in note for note in found.notes)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_orientation_is_applied_only_when_asked(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(RAMP), kind, exif=exif.tobytes())
    stored = np.asarray(Image.open(io.BytesIO(data)))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(rgb(data, apply_exif=False), stored)
    np.testing.assert_array_equal(rgb(data, apply_exif=True), upright)
    if orientation == 6:
        assert upright.shape != stored.shape


def test_broken_exif_is_tolerated():
    data = encode(
        Image.fromarray(RAMP), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f garbage"
    )
    assert rgb(data, apply_exif=True).shape == RAMP.shape


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_thin_images(size):
    assert rgb(encode(Image.new("RGB", size))).shape == (size[1], size[0], 3)


def damaged():
    good = encode(Image.fromarray(RAMP.repeat(20, 0).repeat(20, 1)), "JPEG")
    png = encode(Image.effect_noise((40, 40), 90))
    return {
        "empty": (b"", "0 bytes"),
        "html": (b"<!DOCTYPE html><html>403 Forbidden</html>", "HTML"),
        "text": (b"hello, this is no image", "no image format"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs"),
        "heic": (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00", "HEIC"),
        "truncated jpeg": (good[: len(good) // 2], "cut short"),
        "truncated png": (png[: len(png) // 2], "cut short"),
        "flipped png": (png[:60] + bytes([png[60] ^ 255]) + png[61:], ""),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image format"),
    }


@pytest.mark.parametrize("case", damaged())
def test_damaged_files_raise_and_name_the_file(case):
    data, reason = damaged()[case]
    with pytest.raises(ImageError) as caught:
        decode_rgb(data, apply_exif=True, where="cats/1.jpg")
    assert "cats/1.jpg" in caught.value.message
    assert reason in caught.value.message
    assert caught.value.hint


def test_truncated_stays_an_error_whatever_the_data():
    """No cut of a file may pass for the whole image."""
    data = encode(Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)))
    for length in range(0, len(data) - 12, 97):
        with pytest.raises(ImageError):
            decode_rgb(data[:length], apply_exif=False)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def huge_png(width, height):
    """Write a PNG that claims a size it does not hold."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_bombs_are_bad_images():
    with pytest.raises(ImageError, match="exceeds limit"):
        decode_rgb(huge_png(60_000, 60_000), apply_exif=False)
    with pytest.raises(ImageError, match="million pixels exceed"):
        decode_rgb(encode(Image.new("RGB", (100, 100))), apply_exif=False, max_pixels=9_999)


def test_no_warning_reaches_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="cut short"):
            decode_rgb(huge_png(10_000, 10_000), apply_exif=True)  # Pillow warns of its size
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        rgb(encode(image, transparency=bytes([0, 128])))


def test_a_missing_file_is_an_image_error(tmp_path):
    images = ImageSet.from_files(tmp_path, ["gone.png"], np.array([0]))
    with pytest.raises(ImageError, match=r"gone\.png"):
        read_rgb(images, 0)


def test_pixels_in_memory_pass_unchanged():
    images = ImageSet.from_arrays(RAMP[None], np.array([0]))
    np.testing.assert_array_equal(read_rgb(images, 0), RAMP)


def smooth(height, width):
    """Return a picture with soft edges, which chroma subsampling and progression act on."""
    y, x = np.mgrid[:height, :width]
    planes = [127 + 120 * np.sin((k + 2) * x / 17 + y / (9 + k)) for k in range(3)]
    return Image.fromarray(np.stack(planes, axis=-1).astype(np.uint8))


JPEG_KINDS = {
    "4:2:0": {"subsampling": 2, "quality": 60},
    "4:2:2": {"subsampling": 1},
    "4:4:4": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("options", JPEG_KINDS.values(), ids=JPEG_KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (33, 17), (120, 91)])
def test_a_jpegs_pixels_are_pillows_bit_for_bit(options, mode, size):
    data = encode(smooth(*size).convert(mode), "JPEG", **options)
    np.testing.assert_array_equal(rgb(data), decode_image(data, apply_exif=False).pixels)


def damage(data, rule):
    middle, noise = len(data) // 2, np.random.default_rng(0).bytes(200)
    return {
        "cut in half": data[:middle],
        "cut at the very end": data[:-2],
        "end marker overwritten": data[:-2] + bytes(10),
        "longer than the picture": data + noise,
        "header only": data[:200],
        "zeros inside": data[:middle] + bytes(200) + data[middle + 200 :],
        "markers inside": data[:middle] + b"\xff" * 200 + data[middle + 200 :],
        "noise inside": data[:middle] + noise + data[middle + 200 :],
    }[rule]


@pytest.mark.parametrize(
    "rule",
    [
        *("cut in half", "cut at the very end", "end marker overwritten"),
        *("longer than the picture", "header only", "zeros inside", "markers inside"),
        "noise inside",
    ],
)
def test_a_damaged_jpeg_ends_as_with_pillow(rule):
    data = damage(encode(smooth(120, 91), "JPEG", quality=95), rule)

    def outcome(decode):
        try:
            return decode(data)
        except ImageError as error:
            return str(error)

    ours = outcome(rgb)
    pillows = outcome(lambda data: decode_image(data, apply_exif=False).pixels)
    assert type(ours) is type(pillows)
    np.testing.assert_array_equal(ours, pillows)


def test_a_sound_jpeg_is_not_decoded_by_pillow(monkeypatch):
    data = encode(smooth(20, 30), "JPEG")
    expected = rgb(data)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("Pillow decoded it"))
    np.testing.assert_array_equal(rgb(data), expected)


def test_a_torchvision_that_cannot_be_imported_is_no_damaged_file(monkeypatch):
    decode._jpeg_decoder.cache_clear()
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    with pytest.raises(ImportError, match=r"torchvision\.io"):
        rgb(encode(smooth(20, 30), "JPEG"))
    assert rgb(encode(smooth(20, 30), "PNG")).shape == (20, 30, 3)


def test_without_torchvisions_image_extension_pillow_decodes(monkeypatch):
    data = encode(smooth(20, 30), "JPEG")
    expected = rgb(data)

    def missing(*_arguments, **_options):
        raise AttributeError("no operator image::decode_jpeg")

    decode._jpeg_decoder.cache_clear()
    monkeypatch.setattr(torchvision.io, "decode_jpeg", missing)
    np.testing.assert_array_equal(rgb(data), expected)
    decode._jpeg_decoder.cache_clear()  # or later tests would find the one that is missing
