"""The data of the examples is what its provenance page says; the functions find what is in it."""

import hashlib
import re
import sys
import types
from importlib import resources

import pytest

np = pytest.importorskip("numpy")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")

from peernode.examples import preprocessing  # noqa: E402  (it needs PIL)

EXAMPLES = resources.files("peernode.examples")
DATA = EXAMPLES / "data"


class Blob:
    """What function code sees of a blob."""

    def __init__(self, name: str) -> None:
        self.id, self.cid, self.content = name, f"cid-of-{name}", (DATA / name).read_bytes()

    def bytes(self) -> bytes:
        return self.content


class Edge(types.ModuleType):
    """The `edge` library with nothing behind it but the files of the examples."""

    def __init__(self) -> None:
        super().__init__("edge")
        self.posted: list[tuple[str, str, object]] = []
        self.deleted: list[str] = []
        self.status = 201

    def kv(self, namespace: str) -> dict[str, str]:
        return {
            "models": {"face": "centerface.onnx"},
            "cloud": {"endpoint": "http://127.0.0.1:9/findings"},
        }[namespace]

    def blob(self, name: str) -> Blob:
        return Blob(name)

    def delete_blob(self, name: str) -> None:
        self.deleted.append(name)

    def http(self, method: str, url: str, *, json: object) -> types.SimpleNamespace:
        self.posted.append((method, url, json))
        return types.SimpleNamespace(status=self.status)

    def progress(self, fraction: float, message: str) -> None:
        assert 0 <= fraction <= 1
        assert message

    def infer(self, model: Blob, inputs):
        session = onnxruntime.InferenceSession(model.bytes(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.fixture
def edge(monkeypatch):
    library = Edge()
    monkeypatch.setitem(sys.modules, "edge", library)
    return library


def load(source: str) -> types.SimpleNamespace:
    """Load a function's source as a worker does: the text alone, executed."""
    scope: dict[str, object] = {"__name__": "function"}
    exec(compile(source, "function", "exec"), scope)
    return types.SimpleNamespace(**scope)


def detection() -> types.SimpleNamespace:
    return load((EXAMPLES / "functions" / "detect_faces.py").read_text())


def test_every_file_has_the_hash_that_its_provenance_names() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .* \| `([0-9a-f]{64})` \|$", read_page(), re.MULTILINE)
    here = {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest()
        for entry in DATA.iterdir()
        if entry.name != "PROVENANCE.md"
    }
    assert dict(rows) == here


def read_page() -> str:
    return (DATA / "PROVENANCE.md").read_text()


@pytest.mark.slow
def test_the_one_face_of_the_astronaut_is_found_where_it_is(edge: Edge) -> None:
    found = detection().handler({"picture": Blob("astronaut.jpg")})
    assert found["picture"] == {"width": 512, "height": 512}
    (face,) = found["faces"]
    assert face["score"] > 0.8
    x, y, width, height = face["box"]
    # Eyes and mouth, read off the picture with a ruler.
    for point_x, point_y in ((198, 102), (247, 104), (223, 143)):
        assert x < point_x < x + width
        assert y < point_y < y + height
    assert width < 150
    assert height < 180


@pytest.mark.slow
def test_no_face_is_found_in_a_cup_of_coffee(edge: Edge) -> None:
    found = detection().handler({"picture": Blob("coffee.jpg"), "min_score": 0.3})
    assert found == {"faces": [], "picture": {"width": 600, "height": 400}}


def test_a_box_is_decoded_from_one_hot_cell(edge: Edge) -> None:
    module = detection()
    heatmap = np.zeros((1, 1, 8, 8), np.float32)
    scale = np.zeros((1, 2, 8, 8), np.float32)
    offset = np.zeros((1, 2, 8, 8), np.float32)
    heatmap[0, 0, 3, 5] = 0.9
    scale[0, :, 3, 5] = np.log([4, 2])  # 16 pixels high, 8 wide
    offset[0, :, 3, 5] = (0.25, -0.5)  # down, left: in cells
    boxes, scores = module.decode(heatmap, scale, offset, 0.5)
    assert scores.tolist() == [pytest.approx(0.9)]
    assert boxes.tolist() == [pytest.approx([5 * 4 - 4, 3.75 * 4 - 8, 8, 16])]


def test_of_boxes_that_overlap_the_best_is_kept(edge: Edge) -> None:
    module = detection()
    boxes = np.array([[0, 0, 10, 10], [1, 1, 10, 10], [20, 0, 10, 10]], np.float32)
    assert module.suppress(boxes, np.array([0.6, 0.9, 0.7])) == [1, 2]
    assert module.suppress(boxes[:0], np.array([])) == []


def test_boxes_are_cut_at_the_edge_of_the_picture(edge: Edge) -> None:
    module = detection()
    assert module.clip(np.array([[-5.0, 90, 20, 20]]), 50, 100).tolist() == [[0, 90, 15, 10]]


@pytest.mark.slow
def test_of_a_picture_with_a_face_the_findings_leave_and_it_is_deleted(edge: Edge) -> None:
    findings = load(preprocessing.source()).watch({"picture": Blob("astronaut.jpg")})
    assert edge.posted == [("POST", "http://127.0.0.1:9/findings", findings)]
    assert edge.deleted == ["astronaut.jpg"]
    assert findings == {
        "faces": detection().handler({"picture": Blob("astronaut.jpg")})["faces"],
        "picture": {
            "width": 512,
            "height": 512,
            "id": "astronaut.jpg",
            "cid": "cid-of-astronaut.jpg",
        },
    }
    assert len(findings["faces"]) == 1


@pytest.mark.slow
def test_of_a_picture_without_a_face_nothing_leaves_and_it_is_deleted(edge: Edge) -> None:
    findings = load(preprocessing.source()).watch({"picture": Blob("coffee.jpg")})
    assert findings["faces"] == []
    assert edge.posted == []
    assert edge.deleted == ["coffee.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize("status", [302, 503])
def test_the_picture_stays_when_the_cloud_does_not_take_the_findings(
    edge: Edge, status: int
) -> None:
    edge.status = status
    with pytest.raises(RuntimeError, match=str(status)):
        load(preprocessing.source()).watch({"picture": Blob("astronaut.jpg")})
    assert edge.deleted == []
