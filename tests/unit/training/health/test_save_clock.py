from sisa_scale.training.health.save_clock import SaveClock


def test_a_save_stays_due_until_it_begins_and_none_is_due_without_a_clock() -> None:
    assert not SaveClock(None).is_due()
    hourly, always = SaveClock(3600.0), SaveClock(1e-9)
    assert not hourly.is_due()
    assert [always.is_due(), always.is_due()] == [True, True]
    hourly._since = (hourly._since or 0.0) - 3601.0
    assert [hourly.is_due(), hourly.is_due()] == [True, True]
    hourly.restart()
    assert not hourly.is_due()
