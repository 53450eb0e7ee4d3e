from PIL import Image

from vmflearn.data.sources import open_source


def test_a_folder_may_be_named_by_the_home_it_is_in(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "0.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert len(open_source("folder", "~/images")) == 1
