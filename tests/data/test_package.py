from pathlib import Path

import data


def test_the_package_is_ours_and_not_a_file_in_the_working_directory():
    assert Path(data.__file__).parent == Path(__file__).parents[2] / "src" / "data"
