"""The benchmark against transformers and PEFT in small: both do the same work with the same result."""

import pytest

from benchmarks.peers import Shapes, run

pytestmark = pytest.mark.long


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_both_make_the_same(tmp_path):
    shapes = Shapes(batch=3, length=16, new_tokens=4, rank=4)
    results = run(shapes, 1, str(tmp_path))
    assert list(results) == ["forward", "train_step", "generation"]
    for result in results.values():
        assert result["ratio"] > 0
        assert result["limit_s"] > 0
        assert result["apart"]["logits"] < 1e-4
        assert result["apart"]["loss"] < 1e-4
        assert result["apart"]["equal_tokens"] == 1
    assert results["forward"]["ours_tokens_per_second"] == pytest.approx(
        48 / results["forward"]["ours"], rel=0.02, abs=1
    )
    assert not list(tmp_path.iterdir()), "the temporary files are gone"
