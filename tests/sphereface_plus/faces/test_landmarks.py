import numpy as np
import pytest
from PIL import Image

from mhe.harness.errors import BadInput
from sphereface_plus.faces import find_people, read_landmarks

pytestmark = pytest.mark.one_backend

FIVE = [30, 52, 66, 52, 48, 72, 34, 92, 63, 92.5]


@pytest.fixture
def people(tmp_path):
    for name in ("ann lee/a.png", "ann lee/1.png", "ben/b.png", "ben/1.png", "cid/c.png"):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 7)).save(tmp_path / "faces" / name)
    return find_people(tmp_path / "faces", skip_small=True)


def line(name, numbers=FIVE, separator=" "):
    return separator.join([name, *map(str, numbers)])


@pytest.mark.parametrize(
    "start",
    [[], ["5", "lefteye_x lefteye_y righteye_x righteye_y"], ["image,x1,y1,x2,y2"]],
)
@pytest.mark.parametrize("separator", ["  ", ",", ", "])
def test_formats(tmp_path, people, start, separator):
    lines = [
        *(line("faces/ann lee/1.png", separator=separator), line("a.png", separator=separator), ""),
        *(line(f"ben/{n}.png", np.add(FIVE, 1), separator) for n in ("b", 1)),
        line("cid/c.png", separator=separator),
    ]
    (tmp_path / "points.txt").write_text("\n".join([*start, *lines]), "utf-8")
    landmarks = read_landmarks(tmp_path / "points.txt", people)
    assert set(people.images) <= set(landmarks)
    for name, add in (("ann lee/1.png", 0), ("ann lee/a.png", 0), ("ben/1.png", 1)):
        np.testing.assert_array_equal(landmarks[name], np.reshape(FIVE, (5, 2)) + add)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (line("ben/1.png", FIVE[:9]), r"line 3: an image and 10 numbers.*: ben/1.png 30 .* 63$"),
        (line("ben/1.png", [*FIVE[:9], "x"]), r"line 3: an image and 10 numbers.*63 x$"),
        (line("ben/1.png", [*FIVE[:9], "nan"]), r"line 3: an image and 10 numbers.*63 nan$"),
        (line("ben/7.png"), r"line 3: there is no image ben/7\.png$"),
        (line("1.png"), r"line 3: there is no image 1\.png$"),
        (line("b.png"), r"line 4: ben/b.png is repeated$"),
        (line("ben/1.png", [3] * 10), r"line 3: five different landmarks .* all at \(3, 3\)$"),
        (line("be\u0301n/1.png"), r"line 3: there is no image be\u0301n/1\.png$"),
        ("1 " * 200_000 + "x", r"line 3: an image and 10 numbers.*"),
        ("", r"every image needs landmarks. Missing: ben/1\.png$"),
    ],
)
def test_faults_are_named_by_line(tmp_path, people, changed, message):
    lines = [line("ann lee/1.png"), line("a.png"), changed, line("ben/b.png")]
    (tmp_path / "points.txt").write_text("\n".join(lines), "utf-8")
    with pytest.raises(BadInput, match=message) as caught:
        read_landmarks(tmp_path / "points.txt", people)
    assert str(caught.value).startswith(str(tmp_path / "points.txt"))


def test_many_faults_are_counted_and_a_missing_file_is_named(tmp_path, people):
    (tmp_path / "points.txt").write_text("\n".join(line(f"x/{n}.png") for n in range(9)), "utf-8")
    with pytest.raises(BadInput, match=r"line 1: .*line 2: .*line 3: .*; and 6 more$"):
        read_landmarks(tmp_path / "points.txt", people)
    with pytest.raises(BadInput, match=r"absent\.txt: the landmarks cannot be read"):
        read_landmarks(tmp_path / "absent.txt", people)
