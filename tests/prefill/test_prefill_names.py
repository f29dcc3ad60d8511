import pytest

import foretell.prefill
from foretell.prefill.engines import recorded, tiny


@pytest.mark.parametrize("room", [foretell.prefill, recorded, tiny], ids=lambda r: r.__name__)
def test_the_public_names_are_sorted_and_there(room):
    assert room.__all__ == sorted(room.__all__)
    assert all(hasattr(room, name) for name in room.__all__)
