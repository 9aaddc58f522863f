"""Cluster files against Ray's own schema and Ray's own reading of them."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from pdbench.configs import ROOT

ray_autoscaler = pytest.importorskip("ray.autoscaler")
CLUSTERS = ROOT / "configs/clusters"


@pytest.fixture(scope="module")
def schema():
    """What `ray up` checks a cluster file against."""
    return json.loads((Path(ray_autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.fixture
def aws():
    return yaml.safe_load((CLUSTERS / "aws-2xp5.48xlarge.yaml").read_text())


def test_the_aws_cluster_fits_rays_schema(aws, schema):
    jsonschema.validate(aws, schema)
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        jsonschema.validate(aws | {"idle_timeout": 5}, schema)


def test_it_is_two_nodes_of_eight_gpus_in_one_placement_group(aws):
    p5 = aws["available_node_types"]["p5"]
    assert (p5["min_workers"], p5["max_workers"], p5["resources"]["GPU"]) == (2, 2, 8)
    assert aws["max_workers"] == 2 and p5["node_config"]["Placement"] == {"GroupName": "pdbench"}
    assert aws["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_every_network_card_is_an_efa_in_one_subnet(aws):
    cards = aws["available_node_types"]["p5"]["node_config"]["NetworkInterfaces"]
    assert [card["NetworkCardIndex"] for card in cards] == list(range(32))
    assert [card["DeviceIndex"] for card in cards] == [0] + 31 * [1]
    assert {card["InterfaceType"] for card in cards} == {"efa", "efa-only"}
    assert len({card["SubnetId"] for card in cards}) == 1 and all(card["Groups"] for card in cards)


def test_all_nodes_demand_the_token(aws):
    for commands in (aws["head_start_ray_commands"], aws["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1] and "ray start" in commands[-1]
    assert "/home/ubuntu/.ray_token" in aws["file_mounts"]


def test_the_kuberay_cluster_is_read_by_ray_as_the_same_shape(schema):
    """KubeRay's autoscaler makes a cluster file of the manifest; that one must fit, and say the same."""
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    manifest = yaml.safe_load((CLUSTERS / "kuberay-2xp5.48xlarge.yaml").read_text())
    manifest["metadata"]["namespace"] = "default"  # kubectl fills it in
    config = _derive_autoscaling_config_from_ray_cr(manifest)
    jsonschema.validate(config, schema)
    groups = config["available_node_types"]
    (p5,) = (group for name, group in groups.items() if name == "p5")
    assert (p5["min_workers"], p5["max_workers"], p5["resources"]["GPU"]) == (2, 2, 8)
    assert groups["headgroup"]["resources"]["CPU"] == 0


def test_each_kuberay_worker_takes_a_whole_node_of_its_own():
    manifest = yaml.safe_load((CLUSTERS / "kuberay-2xp5.48xlarge.yaml").read_text())
    spec = manifest["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["vpc.amazonaws.com/efa"] == "32"
    (rule,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    labels = manifest["spec"]["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    assert rule["labelSelector"]["matchLabels"].items() <= labels.items()
