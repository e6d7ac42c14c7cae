"""`millijoule nets`."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from millijoule.cli import app


def test_show_prints_table_1_with_its_costs() -> None:
    result = CliRunner().invoke(app, ["nets", "show", "mobilenet_v2", "--alpha", "0.5", "--resolution", "224"])
    assert result.exit_code == 0, result.output
    words = result.output.split()
    assert "719,034" in words  # 706,224 and a classifier of 1280 x 10 + 10
    assert "(706,224" in words
    assert "95,864,640" in words
    assert "block_16_depthwise" in words
    assert "735" in words  # KiB, (112 x 112 + 56 x 56) x 48
    assert [line.split()[1] for line in result.output.splitlines() if line.startswith("224x224x3 ")] == ["conv2d"]


def test_show_as_json_adds_up() -> None:
    result = CliRunner().invoke(app, ["nets", "show", "--alpha", "0.35", "--resolution", "96", "--json"])
    values = json.loads(result.output)
    assert values["parameters_without_classifier"] == 410_208
    assert sum(row["macs"] for row in values["layers"]) == values["macs"]
    assert sum(row["parameters"] for row in values["table_1"]) == values["parameters"]


def test_list_names_every_family() -> None:
    result = CliRunner().invoke(app, ["nets", "list"])
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.output.splitlines()[1:]]
    assert names == ["autoencoder", "ds_cnn", "mobilenet_v1", "mobilenet_v2", "resnet8", "vgg16"]


def test_show_without_options_is_the_published_configuration() -> None:
    for name, words in {
        "autoencoder": ["264,192", "269,992", "1x1x640,", "640 outputs", "reconstruction"],
        "ds_cnn": ["2,656,768", "24,908", "49x10x1,", "conv 10x4 /2", "separable"],
        "mobilenet_v1": ["7,489,664", "219,058", "96x96x3,", "alpha 0.25", "2 classes"],
        "mobilenet_v2": ["95,864,640", "719,034", "224x224x3,", "alpha 0.5", "10 classes"],
        "resnet8": ["12,501,632", "78,666", "32x32x3,", "10 classes", "residual"],
        "vgg16": [
            "15,346,635,776",
            "14,719,818",
            "(14,714,688",
            "224x224x3,",
            "alpha 1",
            "10 classes",
            "max_pool 2x2 /2",
        ],
    }.items():
        result = CliRunner().invoke(app, ["nets", "show", name])
        assert result.exit_code == 0, result.output
        assert all(word in result.output for word in words), (name, result.output)
        assert ("alpha" in result.output) == (name.startswith("mobilenet") or name == "vgg16")


def test_what_cannot_be_is_refused_with_one_sentence() -> None:
    for arguments in (
        ["vgg19"],
        ["--alpha", "0"],
        ["--resolution", "5"],
        ["--classes", "1"],
        ["resnet8", "--alpha", "0.5"],
        ["ds_cnn", "--resolution", "96"],
        ["autoencoder", "--classes", "3"],
    ):
        result = CliRunner().invoke(app, ["nets", "show", *arguments])
        assert result.exit_code == 2, arguments
