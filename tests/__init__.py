"""The tests. Their Hub runs in this process: its client reads these variables when it is first imported."""

import os
import tempfile

from tests.models.hub_server import Hub

HUB = Hub().__enter__()
for _name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(_name, None)
os.environ |= {"HF_ENDPOINT": HUB.url, "HF_HOME": tempfile.mkdtemp(prefix="hf-home-"), "HF_HUB_DISABLE_XET": "1"}
