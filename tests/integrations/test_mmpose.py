"""Codecs against MMPose's own: sample by sample, and as the decoders of heads that are built from configs."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dark_kernels import decode, recipes, testing

from .conftest import require, stub_mmcv_ops

require("mmpose.codecs")

NAMES = {
    "MSRAHeatmap": "DarkKernelsMSRAHeatmap",
    "UDPHeatmap": "DarkKernelsUDPHeatmap",
    "MegviiHeatmap": "DarkKernelsMegviiHeatmap",
}
INPUT, HEATMAP = (192, 256), (48, 64)
SIZES = {"input_size": INPUT, "heatmap_size": HEATMAP}
CONFIGS = [
    pytest.param({"type": "MSRAHeatmap", "sigma": 2.0}, id="msra"),
    pytest.param({"type": "MSRAHeatmap", "sigma": 2.0, "unbiased": True}, id="msra-dark"),
    pytest.param({"type": "MSRAHeatmap", "sigma": 3.0, "unbiased": True, "blur_kernel_size": 17}, id="msra-dark-17"),
    pytest.param({"type": "UDPHeatmap", "sigma": 2.0}, id="udp"),
    pytest.param({"type": "UDPHeatmap", "sigma": 2.0, "blur_kernel_size": 7}, id="udp-7"),
    pytest.param({"type": "MegviiHeatmap", "kernel_size": 11}, id="megvii"),
    pytest.param({"type": "MegviiHeatmap", "kernel_size": 15}, id="megvii-15"),
]
# What ours and the published decoder compute in: the latter in float32 over whole maps, as the reference does.
BACKENDS = {"cpu": ("eager", "reference"), "cuda": ("triton", "reference")}
Config = dict[str, Any]


@pytest.fixture(scope="module")
def codecs() -> Any:
    """MMPose's registry, with our codecs in it."""
    require("dark_kernels.integrations.mmpose")
    return require("mmpose.registry").KEYPOINT_CODECS


@pytest.fixture(scope="module")
def models(codecs: Any) -> Any:
    """MMPose's registry of heads."""
    stub_mmcv_ops()
    require("mmpose.models")
    return require("mmpose.registry").MODELS


IMPORTED = """
custom_imports = dict(imports=["dark_kernels.integrations.mmpose"], allow_failed_imports=False)
codec = dict(type="DarkKernelsUDPHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2)
"""
NAMED = """
codec = dict(
    type="dark_kernels.integrations.mmpose.DarkKernelsUDPHeatmap", input_size=(192, 256), heatmap_size=(48, 64), sigma=2
)
"""


@pytest.mark.parametrize("config", [IMPORTED, NAMED])
def test_a_config_file(tmp_path: Path, config: str) -> None:
    """And a dict, of one that imports nothing: in a fresh process, where nothing else imports our codecs."""
    (tmp_path / "config.py").write_text(config)
    program = """
import sys
from mmengine.config import Config
from mmpose.registry import KEYPOINT_CODECS
config = Config.fromfile(sys.argv[1])
if "custom_imports" not in config:
    config = Config({"codec": dict(config.codec)})
codec = KEYPOINT_CODECS.build(config.codec)
print(type(codec).__name__, codec.support_batch_decoding)
"""
    command = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "config.py")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "DarkKernelsUDPHeatmap True\n", result.stderr


def ours(config: Config) -> Config:
    return {**config, "type": NAMES[config["type"]]}


def samples(config: Config, real: Tensor) -> Tensor:
    """[8, 17, 64, 48] of a network: what such a codec's networks put out."""
    heatmaps = real[..., 8:56].contiguous()
    return heatmaps * 255 if config["type"] == "MegviiHeatmap" else heatmaps


def factor(config: Config) -> float:
    """Input pixels to a heatmap pixel, the larger of both axes."""
    less = 1 if config["type"] == "UDPHeatmap" else 0
    return max(a / (b - less) for a, b in zip(INPUT, HEATMAP, strict=True))


def assert_same(prediction: tuple[Any, Any], published: tuple[Any, Any], tolerance: float) -> None:
    """Of one sample, where the score is positive."""
    (keypoints, scores), (expected, expected_scores) = prediction, published
    assert (keypoints.shape, keypoints.dtype) == (expected.shape, expected.dtype)
    assert (scores.shape, scores.dtype) == (expected_scores.shape, expected_scores.dtype)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-6)
    valid = expected_scores > 0
    assert valid.mean() > 0.8
    np.testing.assert_allclose(keypoints[valid], expected[valid], rtol=0, atol=tolerance)


@pytest.mark.parametrize("config", CONFIGS)
def test_decoding(codecs: Any, real_heatmaps: Tensor, config: Config, device: torch.device) -> None:
    """A batch as a head hands it over, and each sample as MMPose decodes it."""
    heatmaps = samples(config, real_heatmaps)
    stock, codec = codecs.build({**config, **SIZES}), codecs.build({**ours(config), **SIZES})
    assert codec.support_batch_decoding
    assert not stock.support_batch_decoding
    assert isinstance(codec, type(stock))
    on_device = heatmaps.to(device)
    keypoints, scores = codec.batch_decode(on_device)
    assert len(keypoints) == len(scores) == 8
    for sample in range(8):
        published = stock.decode(heatmaps[sample].numpy().copy())
        assert_same((keypoints[sample], scores[sample]), published, 1e-4 * factor(config))
        (from_array,), _ = codec.batch_decode(heatmaps[sample : sample + 1].numpy())
        single = codec.decode(heatmaps[sample].numpy())
        np.testing.assert_array_equal(from_array, single[0])
        assert_same((keypoints[sample], scores[sample]), single, 1e-4 * factor(config))
    assert torch.equal(on_device.cpu(), heatmaps)


@pytest.mark.parametrize("shift", [False, True])
def test_flip_test(codecs: Any, models: Any, real_heatmaps: Tensor, shift: bool, device: torch.device) -> None:
    """decode's own against MMPose's: the network's outputs for four crops and for their mirror images."""
    crops, mirrored = real_heatmaps[::2], real_heatmaps[1::2]
    flips = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    flip_heatmaps = require("mmpose.models.utils.tta").flip_heatmaps
    merged = (crops + flip_heatmaps(mirrored.clone(), flip_indices=flips, shift_heatmap=shift)) * 0.5
    codec = codecs.build(
        {"type": "MSRAHeatmap", "input_size": (64, 64), "heatmap_size": (64, 64), "sigma": 2.0, "unbiased": True}
    )
    coords, scores, _ = decode(
        crops.to(device), recipes.MMPOSE_DARK, flipped=mirrored.to(device), flip_indices=flips, shift_flipped=shift
    )
    for sample in range(4):
        expected, expected_scores = codec.decode(merged[sample].numpy())
        np.testing.assert_array_equal(scores[sample].cpu().numpy(), expected_scores[0])
        assert (expected_scores > 0).all()
        np.testing.assert_allclose(coords[sample].cpu().numpy(), expected[0], rtol=0, atol=1e-4)


def combined(batch: int, num_keypoints: int) -> Tensor:
    """[B, 3K, 64, 48] as UDP's combined networks put out: a disc, and offsets to its centre."""
    blobs = testing.gaussian_blobs(batch, num_keypoints, HEATMAP[1], HEATMAP[0], seed=0)
    classes = (blobs.heatmaps > 0.3).float() * 0.9 + 0.01 * blobs.heatmaps.float()
    rows, columns = torch.meshgrid(torch.arange(HEATMAP[1]), torch.arange(HEATMAP[0]), indexing="ij")
    radius = 0.0546875 * max(HEATMAP)
    centers = blobs.centers.float()
    offsets = [(centers[..., axis, None, None] - each) / radius for axis, each in enumerate((columns, rows))]
    return torch.stack([classes, *offsets], dim=2).flatten(1, 2)


@pytest.mark.parametrize("options", [{}, {"blur_kernel_size": 5, "radius_factor": 0.1}])
def test_udp_combined(codecs: Any, options: Config, device: torch.device) -> None:
    config = {"type": "UDPHeatmap", "heatmap_type": "combined", **options}
    heatmaps = combined(4, 17)
    stock, codec = codecs.build({**config, **SIZES}), codecs.build({**ours(config), **SIZES})
    on_device = heatmaps.to(device)
    keypoints, scores = codec.batch_decode(on_device)
    for sample in range(4):
        published = stock.decode(heatmaps[sample].numpy().copy())
        assert_same((keypoints[sample], scores[sample]), published, 1e-4 * factor(config))
        assert_same(codec.decode(heatmaps[sample].numpy()), published, 1e-4 * factor(config))
    assert torch.equal(on_device.cpu(), heatmaps)


@pytest.mark.parametrize("config", CONFIGS)
def test_maps_without_a_keypoint(codecs: Any, config: Config) -> None:
    """MMPose's -1 in heatmap pixels, whatever else MMPose makes of it."""
    heatmaps = torch.zeros(1, 3, 64, 48)
    heatmaps[0, 1] = -1.0
    heatmaps[0, 2, 5, 5] = torch.nan
    codec = codecs.build({**ours(config), **SIZES})
    keypoints, scores = codec.batch_decode(heatmaps)
    less = 1 if config["type"] == "UDPHeatmap" else 0
    expected = [-size / (cells - less) for size, cells in zip(INPUT, HEATMAP, strict=True)]
    np.testing.assert_allclose(keypoints[0], [[expected] * 3], rtol=1e-6)
    assert np.isnan(scores[0][0, 2])
    if config["type"] == "MSRAHeatmap":
        heatmaps[0, 2] = 0.0
        published, _ = codecs.build({**config, **SIZES}).decode(heatmaps[0].numpy())
        np.testing.assert_array_equal(keypoints[0], published)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", CONFIGS)
def test_half_precision(codecs: Any, real_heatmaps: Tensor, config: Config, dtype: torch.dtype) -> None:
    heatmaps = samples(config, real_heatmaps).to(dtype)
    codec = codecs.build({**ours(config), **SIZES})
    keypoints, scores = codec.batch_decode(heatmaps)
    expected, expected_scores = codec.batch_decode(heatmaps.float())
    np.testing.assert_array_equal(np.stack(keypoints), np.stack(expected))
    np.testing.assert_array_equal(np.stack(scores), np.stack(expected_scores))


@pytest.mark.parametrize("config", CONFIGS)
def test_encoding_is_mmposes(codecs: Any, config: Config) -> None:
    """And what was encoded is decoded, by both."""
    stock, codec = codecs.build({**config, **SIZES}), codecs.build({**ours(config), **SIZES})
    keypoints = np.random.default_rng(0).uniform((40, 40), (150, 210), (1, 5, 2)).astype(np.float32)
    visible = np.ones((1, 5), dtype=np.float32)
    expected, encoded = stock.encode(keypoints, visible), codec.encode(keypoints, visible)
    assert expected.keys() == encoded.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(encoded[name], array)
    assert codec.label_mapping_table == stock.label_mapping_table
    assert codec.field_mapping_table == stock.field_mapping_table
    assert_same(codec.decode(encoded["heatmaps"]), stock.decode(expected["heatmaps"]), 1e-4 * factor(config))


@pytest.mark.parametrize("config", CONFIGS)
def test_copies(codecs: Any, config: Config) -> None:
    """A codec goes to the workers of a data loader."""
    codec = codecs.build({**ours(config), **SIZES})
    heatmaps = testing.gaussian_blobs(1, 3, 64, 48, seed=0).heatmaps
    for twin in (copy.deepcopy(codec), pickle.loads(pickle.dumps(codec))):
        np.testing.assert_array_equal(twin.batch_decode(heatmaps)[0][0], codec.batch_decode(heatmaps)[0][0])


def test_a_reversed_view_of_one_sample(codecs: Any, real_heatmaps: Tensor) -> None:
    codec = codecs.build({**ours({"type": "UDPHeatmap"}), **SIZES})
    mirrored = real_heatmaps[0, :, :, 8:56].numpy()[..., ::-1]
    np.testing.assert_array_equal(codec.decode(mirrored)[0], codec.decode(mirrored.copy())[0])


# --- SimCC -----------------------------------------------------------------------------------------------------

SIGMA, RATIO = (4.9, 5.66), 2.0
SIMCC = [
    pytest.param({}, id="simcc"),
    pytest.param({"use_dark": True}, id="simcc-dark"),
    pytest.param({"decode_visibility": True, "decode_beta": 10.0}, id="simcc-visibility"),
    pytest.param({"sigma": 6, "simcc_split_ratio": 3.0, "use_dark": True}, id="simcc-6"),
]


def simcc_config(kind: str, options: Config) -> Config:
    config = {"type": kind, "input_size": INPUT, "sigma": SIGMA, "simcc_split_ratio": RATIO, "normalize": False}
    return {**config, **options}


def axes(batch: int, num_keypoints: int, config: Config) -> tuple[Tensor, Tensor]:
    """[B, K, Wx] and [B, K, Wy]: a Gaussian and noise on each."""
    generator = torch.Generator().manual_seed(0)
    sigma = config["sigma"] if isinstance(config["sigma"], tuple) else (config["sigma"],) * 2
    result = []
    for size, spread in zip(INPUT, sigma, strict=True):
        bins = torch.arange(int(size * config["simcc_split_ratio"]))
        centers = (0.2 + 0.6 * torch.rand(batch, num_keypoints, 1, generator=generator)) * len(bins)
        peak = torch.exp(-0.5 * ((bins - centers) / spread) ** 2)
        result.append(peak + 0.01 * torch.rand(peak.shape, generator=generator))
    return result[0], result[1]


@pytest.mark.parametrize("options", SIMCC)
def test_simcc(codecs: Any, options: Config, device: torch.device) -> None:
    stock, codec = (codecs.build(simcc_config(kind, options)) for kind in ("SimCCLabel", "DarkKernelsSimCCLabel"))
    predictions = axes(4, 17, simcc_config("", options))
    untouched = [axis.clone() for axis in predictions]
    on_device = [axis.to(device) for axis in predictions]
    keypoints, scores = codec.batch_decode(*on_device)
    visibilities = None
    if codec.decode_visibility:
        scores, visibilities = scores
    for sample in range(4):
        one = [axis[sample].numpy().copy() for axis in predictions]
        for arrays in (one, [array[None] for array in one]):
            # MMPose's own takes [K, W] as well, but not with DARK.
            expected, expected_scores = stock.decode(*[array[None].copy() for array in one])
            single, single_scores = codec.decode(*arrays)
            if visibilities is not None:
                (expected_scores, visibility), (single_scores, single_visibility) = expected_scores, single_scores
                np.testing.assert_allclose(visibilities[sample], visibility, rtol=1e-4)
                np.testing.assert_array_equal(single_visibility, visibilities[sample])
            assert_same((keypoints[sample], scores[sample]), (expected, expected_scores), 1e-4)
            np.testing.assert_array_equal(single, keypoints[sample])
            np.testing.assert_array_equal(single_scores, scores[sample])
    for axis, before in zip(on_device, untouched, strict=True):
        assert torch.equal(axis.cpu(), before)


def test_simcc_visibility_with_dark(codecs: Any) -> None:
    """Of the predictions, as without DARK; MMPose's own are of what DARK has made of them."""
    config = simcc_config("DarkKernelsSimCCLabel", {"decode_visibility": True, "decode_beta": 10.0})
    predictions = axes(2, 5, config)
    _, (_, plain) = codecs.build(config).batch_decode(*predictions)
    _, (_, dark) = codecs.build({**config, "use_dark": True}).batch_decode(*predictions)
    np.testing.assert_array_equal(dark, plain)
    _, (_, published) = codecs.build({**config, "type": "SimCCLabel", "use_dark": True}).decode(
        *(axis.numpy() for axis in predictions)
    )
    assert np.abs(published - np.concatenate(plain)).max() > 0.1


@pytest.mark.parametrize("use_dark", [False, True])
def test_simcc_scores_are_probabilities_where_asked_for(codecs: Any, use_dark: bool) -> None:
    options = {"use_dark": use_dark, "activation": "softmax", "logit_scale": 10.0}
    config = simcc_config("DarkKernelsSimCCLabel", options)
    predictions = axes(2, 5, config)
    keypoints, scores = codecs.build(config).batch_decode(*predictions)
    stock = codecs.build(simcc_config("SimCCLabel", {"use_dark": use_dark}))
    for sample in range(2):
        probabilities = [(10 * axis[sample, None]).softmax(-1).numpy() for axis in predictions]
        assert_same((keypoints[sample], scores[sample]), stock.decode(*probabilities), 1e-4)


def test_simcc_without_a_keypoint(codecs: Any) -> None:
    stock, codec = (codecs.build(simcc_config(kind, {})) for kind in ("SimCCLabel", "DarkKernelsSimCCLabel"))
    simcc_x, simcc_y = axes(1, 3, simcc_config("", {}))
    simcc_x[0, 1] = 0.0
    simcc_y[0, 2] -= 2.0
    expected, _ = stock.decode(simcc_x[0].numpy(), simcc_y[0].numpy())
    np.testing.assert_array_equal(expected[0, 1:], -1 / RATIO)
    np.testing.assert_array_equal(codec.batch_decode(simcc_x, simcc_y)[0][0], expected)


def test_simcc_encoding_is_mmposes(codecs: Any) -> None:
    stock, codec = (codecs.build(simcc_config(kind, {})) for kind in ("SimCCLabel", "DarkKernelsSimCCLabel"))
    keypoints = np.random.default_rng(0).uniform((20, 20), (170, 230), (1, 5, 2)).astype(np.float32)
    expected, encoded = stock.encode(keypoints), codec.encode(keypoints)
    assert expected.keys() == encoded.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(encoded[name], array)
    assert codec.label_mapping_table == stock.label_mapping_table
    labels = (encoded["keypoint_x_labels"], encoded["keypoint_y_labels"])
    np.testing.assert_array_equal(codec.decode(*labels)[0], stock.decode(*labels)[0])


# --- heads -----------------------------------------------------------------------------------------------------


def data_samples(count: int, num_keypoints: int = 17) -> list[Any]:
    structures = require("mmpose.structures")
    flips = [num_keypoints - 1 - keypoint for keypoint in range(num_keypoints)]
    return [structures.PoseDataSample(metainfo={"flip_indices": flips}) for _ in range(count)]


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("config", CONFIGS)
def test_heatmap_head(
    models: Any, real_heatmaps: Tensor, config: Config, flip_test: bool, device: torch.device
) -> None:
    """Real heatmaps as features, which a layer of random weights, the same for both heads, mixes a little."""
    features = (samples(config, real_heatmaps).to(device),)
    predictions = []
    for decoder in (config, ours(config)):
        head = models.build(
            {
                "type": "HeatmapHead", "in_channels": 17, "out_channels": 17, "deconv_out_channels": None,
                "decoder": {**decoder, **SIZES},
            }
        )  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            weight = torch.eye(17) + 0.05 * torch.rand(17, 17, generator=generator)
            head.final_layer.weight.copy_(weight[..., None, None])
            head.final_layer.bias.zero_()
            feats = [features, tuple(each.flip(-1).roll(1, 1) for each in features)] if flip_test else features
            test_cfg = {"flip_test": flip_test, "shift_heatmap": flip_test, "output_heatmaps": True}
            predictions.append(head.to(device).predict(feats, data_samples(8), test_cfg=test_cfg))
    (published, published_fields), (result, fields) = predictions
    assert len(result) == 8
    for prediction, expected in zip(result, published, strict=True):
        assert set(prediction.keys()) == set(expected.keys())
        assert_same(
            (prediction.keypoints, prediction.keypoint_scores),
            (expected.keypoints, expected.keypoint_scores),
            1e-4 * factor(config),
        )
    for field, expected in zip(fields, published_fields, strict=True):
        torch.testing.assert_close(field.heatmaps, expected.heatmaps)


def test_heatmap_head_of_random_weights(models: Any, device: torch.device) -> None:
    """Deconvolutions included, features of noise: UDP's usual head. On such maps a step can be long and rounding counts
    for much, on both sides: each is allowed what is derived for its arithmetic."""
    config = {"type": "UDPHeatmap", "sigma": 2.0}
    predictions = []
    for decoder in (config, ours(config)):
        torch.manual_seed(0)
        head = models.build(
            {
                "type": "HeatmapHead", "in_channels": 16, "out_channels": 5, "deconv_out_channels": (8, 8),
                "deconv_kernel_sizes": (4, 4), "decoder": {**decoder, **SIZES},
            }
        )  # fmt: skip
        with torch.no_grad():
            head.final_layer.bias.fill_(0.5)
            head.final_layer.weight.normal_(0, 0.3)
            features = tuple(torch.rand(4, 16, 16, 12)[None].to(device))
            predictions.append(
                head.eval().to(device).predict(features, data_samples(4, 5), test_cfg={"output_heatmaps": True})
            )
    (published, fields), (result, _) = predictions
    heatmaps = torch.stack([field.heatmaps for field in fields])
    kinds = [testing.arithmetic_of(backend, heatmaps.device.type, torch.float32) for backend in BACKENDS[device.type]]
    bounds = sum(testing.decode_bounds(heatmaps, recipes.MMPOSE_UDP, kind).coords for kind in kinds).cpu()
    assert (bounds < 0.5).float().mean() > 0.8
    for prediction, expected, bound in zip(result, published, bounds.numpy(), strict=True):
        assert (expected.keypoint_scores > 0).all()
        np.testing.assert_array_equal(prediction.keypoint_scores, expected.keypoint_scores)
        assert (np.abs(prediction.keypoints - expected.keypoints)[0] <= bound * factor(config)).all()


@pytest.mark.parametrize("flip_test", [False, True])
@pytest.mark.parametrize("options", SIMCC)
def test_rtmcc_head_of_random_weights(models: Any, options: Config, flip_test: bool, device: torch.device) -> None:
    """RTMPose's head."""
    predictions = []
    for kind in ("SimCCLabel", "DarkKernelsSimCCLabel"):
        torch.manual_seed(0)
        decoder = simcc_config(kind, options)
        head = models.build(
            {
                "type": "RTMCCHead", "in_channels": 8, "out_channels": 17, "input_size": INPUT,
                "in_featuremap_size": (6, 8), "simcc_split_ratio": decoder["simcc_split_ratio"],
                "gau_cfg": {
                    "hidden_dims": 32, "s": 16, "expansion_factor": 2, "dropout_rate": 0.0, "drop_path": 0.0,
                    "act_fn": "SiLU", "use_rel_bias": False, "pos_enc": False,
                },
                "loss": {"type": "KLDiscretLoss", "use_target_weight": True}, "decoder": decoder,
            }
        )  # fmt: skip
        features = [(torch.rand(3, 8, 8, 6).to(device),) for _ in range(2)]
        feats = features if flip_test else features[0]
        predictions.append(head.eval().to(device).predict(feats, data_samples(3), test_cfg={"flip_test": flip_test}))
    for prediction, expected in zip(*reversed(predictions), strict=True):
        assert set(prediction.keys()) == set(expected.keys())
        assert prediction.keypoints.shape == expected.keypoints.shape == (1, 17, 2)
        np.testing.assert_allclose(prediction.keypoint_scores, expected.keypoint_scores, rtol=1e-6)
        if not options.get("use_dark"):  # whose steps on noise are as long as its rounding makes them
            np.testing.assert_array_equal(prediction.keypoints, expected.keypoints)
        if "keypoints_visible" in expected:
            np.testing.assert_allclose(prediction.keypoints_visible, expected.keypoints_visible, rtol=1e-4)
