"""The forms of SISA against its definition in float64; causality of every form and control."""

import dataclasses
import warnings

import pytest
import torch
from sisa_reference import (
    CONTROLS,
    HAVE_DECAY,
    LENGTH,
    UNBOUNDED,
    WIDTH,
    angles,
    build,
    leak,
    model,
    reference,
    turns,
)

from sisa_scale.errors import SisaScaleWarning
from sisa_scale.models.mixers.sisa import Sisa


@pytest.mark.parametrize("length", [1, 15, 16, 17, LENGTH])
@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_is_its_definition(name: str, length: int) -> None:
    mixer = build(75.0, **CONTROLS[name]).double()
    x = torch.randn(2, length, WIDTH).double()
    torch.testing.assert_close(
        mixer(x, turns(length, torch.float64)), reference(mixer, x, angles(length)), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("backend", ["math", "flash_padded"])
@pytest.mark.parametrize("nats", [5.0, 22.0, 75.0, 300.0])
def test_query_blocks_are_exact_in_single_precision(nats: float, backend: str) -> None:
    mixer = build(nats, 512, backend, form="query_blocks", block_tokens=128)
    x = torch.randn(1, 512, WIDTH)
    decay, _ = mixer.rates(x)
    assert decay.sum(1).mean().item() == pytest.approx(nats, rel=0.1)
    wanted = reference(mixer, x, angles(512))
    assert (mixer(x, turns(512)) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("nats", [5.0, 22.0, 79.0, 300.0])
@pytest.mark.parametrize("name", CONTROLS)
def test_no_gradient_comes_from_later_inputs(name: str, nats: float) -> None:
    if nats > 80 and name not in UNBOUNDED:
        pytest.skip("the form bounds the decay to 80 nats")
    mixer, x = build(nats, **CONTROLS[name]), torch.randn(2, LENGTH, WIDTH)
    if name in HAVE_DECAY:
        assert mixer.rates(x)[0].sum(1).mean().item() == pytest.approx(nats, rel=0.1)
    for cut in (1, 40, 48):
        assert leak(mixer, x, cut) == 0.0


@pytest.mark.parametrize("cut", [1, 16, 17, 50])
@pytest.mark.parametrize("name", CONTROLS)
def test_a_prefix_is_read_as_it_is_alone(name: str, cut: int) -> None:
    mixer, x = build(60.0, **CONTROLS[name]), torch.randn(2, LENGTH, WIDTH)
    with torch.no_grad():
        whole = mixer(x, turns())
        torch.testing.assert_close(mixer(x[:, :cut], turns(cut)), whole[:, :cut], rtol=0, atol=2e-5 * whole.abs().max())


@pytest.mark.parametrize("backend", ["math", "flash", "flash_padded"])
def test_channels_decay_alike_in_every_kernel(backend: str) -> None:
    mixer, x = build(60.0, backend=backend, **CONTROLS["channels"]), torch.randn(2, LENGTH, WIDTH)
    wanted = reference(mixer, x, angles())
    assert (mixer(x, turns()) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_channels_keep_their_bound_beyond_the_trained_length() -> None:
    trained, x = build(30.0, 40, **CONTROLS["channels"]).double(), torch.randn(2, LENGTH, WIDTH).double()
    outgrown = dataclasses.replace(model(**CONTROLS["channels"]), trained_length_tokens=40)
    longer = Sisa(outgrown, "math").double()
    longer.load_state_dict(trained.state_dict())
    assert (longer.form, longer.block_tokens) == ("query_blocks", 40)
    found = longer(x, turns(dtype=torch.float64))
    torch.testing.assert_close(found, reference(longer, x, angles()), rtol=0, atol=1e-10)
    torch.testing.assert_close(found[:, :40], trained(x[:, :40], turns(40, torch.float64)), rtol=0, atol=1e-10)


def test_channels_take_the_place_of_positions() -> None:
    (violation,) = model(**{**CONTROLS["channels"], "position": "rope"}).violations()
    assert violation.key == "position" and "Write position: none" in violation.remedy
    (violation,) = model(decay_bias_init=3.0, **CONTROLS["channels"]).violations()
    assert violation.key == "sisa.decay_range_nats" and "query_blocks" not in violation.remedy


@pytest.mark.filterwarnings("ignore::sisa_scale.errors.SisaScaleWarning")
def test_the_published_form_is_the_published_formula_and_looks_ahead() -> None:
    x = torch.randn(2, LENGTH, WIDTH).double()
    for nats in (10.0, 60.0):
        mixer = build(nats, form="published").double()
        torch.testing.assert_close(
            mixer(x, turns(dtype=torch.float64)), reference(mixer, x, angles()), rtol=0, atol=1e-10
        )
    assert leak(mixer, x, 40) > 1e-4
    blocks = build(10.0, form="query_blocks").double()
    torch.testing.assert_close(blocks(x, turns()), build(10.0, form="published").double()(x, turns()))
    with pytest.raises(ValueError, match="every new token changes the keys"):
        mixer.new_cache(1, torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="spans the whole sequence"):
        mixer(x, turns(), torch.zeros(2, LENGTH, dtype=torch.long))


def test_the_published_form_warns_once() -> None:
    with pytest.warns(SisaScaleWarning, match="not causal.*0.229 nats per token") as caught:
        Sisa(model(form="published"), "math")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Sisa(model(form="published"), "math", layer=1)


@pytest.mark.parametrize(("length", "form"), [(2048, "single_call"), (11_000, "single_call"), (16_384, "query_blocks")])
def test_auto_takes_one_call_where_its_range_suffices(length: int, form: str) -> None:
    config = model(length)
    assert Sisa(config, "math").form == form
    assert not list(config.violations())
    assert bool(list(model(length, form="single_call").violations())) == (form != "single_call")


@pytest.mark.parametrize("form", ["single_call", "query_blocks"])
def test_one_graph_holds_forward_and_backward(form: str) -> None:
    mixer, x = build(20.0, 32, "flash_padded", form=form), torch.randn(1, 32, WIDTH)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    out = compiled(x, turns(32))
    out.sum().backward()
    torch.testing.assert_close(out, mixer(x, turns(32)), rtol=0, atol=1e-4)
