"""The serving example of docs/models.md, against KServe's schema."""

import re

import yaml

from tests.support.kubernetes_schemas import custom_resource_errors
from tests.support.paths import ROOT


def test_kserve_takes_the_inference_service() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    body = yaml.safe_load(block)
    assert custom_resource_errors(body) == []
    volume = yaml.safe_load((ROOT / "manifests" / "base" / "workspace.yaml").read_text(encoding="utf-8"))
    assert body["spec"]["predictor"]["model"]["storageUri"].startswith(f"pvc://{volume['metadata']['name']}/export/")
    wrong = yaml.safe_load(block.replace("storageUri", "storageURI"))
    assert custom_resource_errors(wrong)
