"""One contract, and every layer held to it."""

import math
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from model.layers import (
    ActNorm,
    AdditiveCoupling,
    AffineCoupling,
    Chain,
    ChannelPermutation,
    CheckerboardCoupling,
    CouplingNetwork,
    Flatten,
    GaussianPrior,
    Invertible1x1,
    Layer,
    Split,
    Squeeze,
    bounded,
    exponential_noise,
    standard_logistic_log_prob,
    standard_normal_log_prob,
)

Shape = tuple[int, int, int]
Perturb = Callable[..., Layer]

BATCH = 3
HIDDEN = 8
BOUND = 1.0


class SplitAsLayer(Layer):
    """A Split that puts its two halves side by side, so that the contract speaks of it too."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = Split(channels, channels // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, part, log_det = self.split(x)
        return torch.cat([kept, part], dim=1), log_det

    def inverse(self, y: Tensor) -> Tensor:
        kept, part = y.chunk(2, dim=1)
        return self.split.inverse(kept, part)


class PriorOfOneClass(Layer):
    """A GaussianPrior with classes, every image of the same one."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.prior = GaussianPrior(shape, classes=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.prior(x, torch.ones(len(x), dtype=torch.int64))

    def inverse(self, y: Tensor) -> Tensor:
        return self.prior.inverse(y, torch.ones(len(y), dtype=torch.int64))


def step(channels: int) -> Chain:
    return Chain(
        ActNorm(channels),
        Invertible1x1(channels),
        AffineCoupling(channels, HIDDEN, BOUND),
    )


residual = partial(CouplingNetwork, depth=2, residual=True)
perceptron = partial(CouplingNetwork, depth=3, kernel=1)

LAYERS: dict[str, Callable[[Shape], Layer]] = {
    "ActNorm": lambda shape: ActNorm(shape[0]),
    "Invertible1x1": lambda shape: Invertible1x1(shape[0]),
    "ChannelPermutation": lambda shape: ChannelPermutation(torch.randperm(shape[0])),
    "AffineCoupling": lambda shape: AffineCoupling(shape[0], HIDDEN, BOUND),
    "AdditiveCoupling": lambda shape: AdditiveCoupling(shape[0], HIDDEN),
    "AffineCoupling-residual": lambda shape: AffineCoupling(shape[0], HIDDEN, BOUND, residual),
    "AdditiveCoupling-perceptron": lambda shape: AdditiveCoupling(shape[0], HIDDEN, perceptron),
    "CheckerboardCoupling-affine": lambda shape: CheckerboardCoupling(
        shape[0], HIDDEN, 0, BOUND, residual
    ),
    "CheckerboardCoupling-additive": lambda shape: CheckerboardCoupling(shape[0], HIDDEN, 1, None),
    "Squeeze": lambda _: Squeeze(),
    "Flatten": Flatten,
    "Chain": lambda shape: Chain(step(shape[0]), Squeeze(), step(4 * shape[0])),
    "GaussianPrior": GaussianPrior,
    "GaussianPrior-class": PriorOfOneClass,
    "Split": lambda shape: SplitAsLayer(shape[0]),
}
SHAPES: list[Shape] = [(2, 4, 4), (4, 2, 6), (12, 2, 2)]
ODD: Shape = (5, 2, 2)
PARAMETERLESS = {"ChannelPermutation", "Flatten", "Squeeze"}
STATES = ["new", "initialized", "perturbed", "trained"]


def batch(shape: Shape, count: int = BATCH, seed: int = 1) -> Tensor:
    """Not of zero mean or unit variance, so that to normalise it is to change it."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 + 0.5 * torch.randn(count, *shape, dtype=torch.float64, generator=generator)


def trained(layer: Layer, x: Tensor) -> Layer:
    """After a few steps of maximum likelihood on `x`."""
    parameters = list(layer.parameters())
    if not parameters:
        return layer
    optimizer = torch.optim.Adam(parameters, 0.05)
    for _ in range(8):
        y, log_det = layer(x)
        loss = -(standard_normal_log_prob(y) + log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return layer


def in_state(layer: Layer, state: str, shape: Shape, perturb: Perturb) -> Layer:
    x = batch(shape, count=16, seed=2)
    if state != "new":
        layer.initialize(x)
    if state == "perturbed":
        perturb(layer)
    if state == "trained":
        trained(layer, x)
    return layer


def states(name: str) -> list[str]:
    """Those that differ: most layers have nothing that a first batch sets, some nothing at all."""
    if name in PARAMETERLESS:
        return ["new"]
    return STATES if name in ("ActNorm", "Chain") else [s for s in STATES if s != "initialized"]


def _cases() -> Iterator[object]:
    for name in LAYERS:
        odd = name not in ("Split", "Squeeze")  # what halves its channels has no use for 5
        for shape in [*SHAPES, *([ODD] if odd else [])]:
            for state in states(name):
                label = f"{name}-{'x'.join(map(str, shape))}-{state}"
                yield pytest.param(name, shape, state, id=label)


@pytest.mark.parametrize(("name", "shape", "state"), list(_cases()))
class TestContract:
    """What model/layers.py promises of every layer, in float64 unless it says otherwise."""

    @pytest.fixture
    def layer(self, name: str, shape: Shape, state: str, perturb: Perturb) -> Layer:
        return in_state(LAYERS[name](shape).double(), state, shape, perturb)

    @pytest.fixture
    def x(self, shape: Shape) -> Tensor:
        return batch(shape)

    def test_inverse_undoes_forward(self, layer: Layer, x: Tensor) -> None:
        y, _ = layer(x)
        torch.testing.assert_close(layer.inverse(y), x, rtol=0, atol=1e-11)

    def test_forward_undoes_inverse(self, layer: Layer, x: Tensor) -> None:
        shape = layer(x)[0].shape
        y = batch((shape[1], shape[2], shape[3]), seed=3)
        torch.testing.assert_close(layer(layer.inverse(y))[0], y, rtol=0, atol=1e-11)

    def test_float32(self, layer: Layer, x: Tensor) -> None:
        exact_y, exact_log_det = layer(x)
        y, log_det = layer.float()(x.float())
        assert y.dtype == log_det.dtype == torch.float32
        torch.testing.assert_close(y.double(), exact_y, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(log_det.double(), exact_log_det, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.inverse(y), x.float(), rtol=0, atol=2e-5)

    def test_log_det_is_that_of_the_jacobian(self, layer: Layer, x: Tensor) -> None:
        _, log_det = layer(x)
        assert log_det.shape == (BATCH,)
        for image, claimed in zip(x, log_det, strict=True):
            jacobian = torch.autograd.functional.jacobian(
                lambda flat, shape=image.shape: layer(flat.view(1, *shape))[0].flatten(),
                image.flatten(),
            )
            torch.testing.assert_close(claimed, torch.linalg.slogdet(jacobian)[1])

    def test_images_of_a_batch_do_not_mix(self, layer: Layer, x: Tensor) -> None:
        y, log_det = layer(x)
        alone_y, alone_log_det = layer(x[1:2])
        torch.testing.assert_close(alone_y, y[1:2])
        torch.testing.assert_close(alone_log_det, log_det[1:2])
        torch.testing.assert_close(layer.inverse(y[1:2]), layer.inverse(y)[1:2])

    def test_input_is_left_alone(self, layer: Layer, x: Tensor) -> None:
        before = x.clone()
        layer.initialize(x)
        layer.inverse(layer(x)[0])
        assert torch.equal(x, before)

    def test_rebuild_is_the_graph_of_forward(self, layer: Layer, x: Tensor) -> None:
        """The same values and the same gradients, from the output alone."""
        parameters = list(layer.parameters())
        leaf = x.clone().requires_grad_()
        y, log_det = layer(leaf)
        slope = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
        expected = torch.autograd.grad(
            (slope * y).sum() + 3 * log_det.sum(), [leaf, *parameters], materialize_grads=True
        )

        rebuilt = layer.rebuild(y.detach())
        rebuilt_x, rebuilt_y = (
            torch.cat(part, dim=1) for part in (rebuilt.inputs, rebuilt.outputs)
        )
        torch.testing.assert_close(rebuilt_x, x, rtol=0, atol=1e-11)
        torch.testing.assert_close(rebuilt_y, y, rtol=0, atol=1e-11)
        torch.testing.assert_close(rebuilt.log_det, log_det)
        assert all(part.is_leaf for part in rebuilt.inputs)
        gradients = torch.autograd.grad(
            (slope * rebuilt_y).sum() + 3 * rebuilt.log_det.sum(),
            [*rebuilt.inputs, *parameters],
            materialize_grads=True,
        )
        count = len(rebuilt.inputs)
        torch.testing.assert_close(torch.cat(gradients[:count], dim=1), expected[0])
        torch.testing.assert_close(gradients[count:], expected[1:])

    def test_autocast_leaves_the_path_of_x_alone(self, layer: Layer, x: Tensor) -> None:
        layer.float()
        x = x.float()
        with torch.autocast("cpu", torch.bfloat16):
            y, log_det = layer(x)
            back = layer.inverse(y)
        assert y.dtype == log_det.dtype == back.dtype == torch.float32
        torch.testing.assert_close(back, x, rtol=0, atol=_autocast_tolerance(layer))


def _autocast_tolerance(layer: Layer) -> float:
    """A single layer's network sees the very same input again; in a chain it may see one that is
    a float32 rounding away, and so another bfloat16."""
    return 2e-2 if isinstance(layer, Chain) else 1e-5


@pytest.mark.parametrize("name", sorted(LAYERS.keys() - PARAMETERLESS))
def test_every_parameter_learns(name: str, perturb: Perturb) -> None:
    layer = perturb(LAYERS[name]((4, 4, 4)))
    y, log_det = layer(batch((4, 4, 4)).float())
    (standard_normal_log_prob(y) + log_det).sum().backward()
    for parameter_name, parameter in layer.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("shape", [*SHAPES, ODD])
def test_actnorm_normalises_the_batch_that_initialises_it(shape: Shape) -> None:
    layer = ActNorm(shape[0]).double()
    x = batch(shape, count=8) * torch.arange(1, shape[0] + 1)[:, None, None]
    layer.initialize(x)
    y, _ = layer(x)
    torch.testing.assert_close(y.mean(dim=(0, 2, 3)), torch.zeros(shape[0]).double())
    torch.testing.assert_close(
        y.var(dim=(0, 2, 3)), torch.ones(shape[0]).double(), rtol=1e-4, atol=0
    )


def test_actnorm_of_a_constant_batch_stays_finite() -> None:
    layer = ActNorm(2)
    layer.initialize(torch.full((4, 2, 2, 2), 0.25))
    y, log_det = layer(torch.full((4, 2, 2, 2), 0.25))
    assert y.isfinite().all()
    assert log_det.isfinite().all()


def test_chain_initialises_each_layer_with_what_reaches_it(perturb: Perturb) -> None:
    first, second = ActNorm(2), ActNorm(2)
    chain = Chain(first, AffineCoupling(2, HIDDEN, BOUND), second).double()
    perturb(chain.layers[1])
    x = batch((2, 4, 4), count=16)
    chain.initialize(x)
    y, _ = chain(x)
    assert second.bias.any()
    torch.testing.assert_close(y.mean(dim=(0, 2, 3)), torch.zeros(2).double())
    torch.testing.assert_close(y.var(dim=(0, 2, 3)), torch.ones(2).double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 5, 48])
def test_invertible_1x1_starts_as_a_rotation(channels: int) -> None:
    layer = Invertible1x1(channels).double()
    weight = layer.weight()
    torch.testing.assert_close(weight @ weight.T, torch.eye(channels).double(), rtol=0, atol=1e-5)
    _, log_det = layer(batch((channels, 4, 4)))
    torch.testing.assert_close(log_det, torch.zeros(BATCH).double(), rtol=0, atol=1e-4)


def test_invertible_1x1_is_the_product_that_bundles_store() -> None:
    """W = P L (U + diag(s)), in that order."""
    layer = Invertible1x1(3)
    values = {
        "permutation": [[0, 1, 0], [0, 0, 1], [1, 0, 0]],
        "sign": [1, -1, 1],
        "log_scale": [math.log(2), math.log(3), math.log(5)],
        "lower": [[9, 9, 9], [1, 9, 9], [2, 3, 9]],  # only what is below the diagonal counts
        "upper": [[9, 4, 5], [9, 9, 6], [9, 9, 9]],  # and above
    }
    layer.load_state_dict({name: torch.tensor(value) for name, value in values.items()})
    expected = torch.tensor([[2.0, 1.0, 11.0], [4.0, -1.0, 33.0], [2.0, 4.0, 5.0]])
    torch.testing.assert_close(layer.weight(), expected)


@pytest.mark.parametrize(
    "layer",
    [
        AffineCoupling(6, HIDDEN, BOUND),
        AdditiveCoupling(6, HIDDEN),
        CheckerboardCoupling(6, HIDDEN, 0, BOUND),
        CheckerboardCoupling(6, HIDDEN, 1, None, residual),
        GaussianPrior((6, 4, 4)),
    ],
    ids=["affine", "additive", "checkerboard-affine", "checkerboard-additive", "prior"],
)
def test_a_new_layer_is_the_identity(layer: Layer) -> None:
    x = batch((6, 4, 4)).float()
    y, log_det = layer(x)
    assert torch.equal(y, x)
    assert not log_det.any()


def test_a_new_split_only_splits() -> None:
    x = batch((6, 4, 4)).float()
    kept, part, log_det = Split(6, 3)(x)
    assert torch.equal(kept, x[:, :3])
    assert torch.equal(part, x[:, 3:])
    assert not log_det.any()


@pytest.mark.parametrize("channels", [2, 5, 6])
def test_coupling_keeps_the_first_half(channels: int, perturb: Perturb) -> None:
    x = batch((channels, 4, 4)).float()
    for layer in (AffineCoupling(channels, HIDDEN, BOUND), AdditiveCoupling(channels, HIDDEN)):
        y, _ = perturb(layer)(x)
        half = math.ceil(channels / 2)
        assert torch.equal(y[:, :half], x[:, :half])
        assert (y[:, half:] != x[:, half:]).any(dim=(0, 2, 3)).all()


@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0])
def test_affine_coupling_never_scales_past_its_bound(bound: float, perturb: Perturb) -> None:
    layer = perturb(AffineCoupling(4, HIDDEN, bound), scale=3.0)
    x = batch((4, 4, 4)).float()
    _, log_det = layer(x)
    assert log_det.abs().max() <= bound * 2 * 4 * 4
    assert log_det.abs().max() > 0.5 * bound  # the network pushes hard enough to feel it


def test_bounded_is_the_identity_near_zero() -> None:
    small = torch.tensor([-1e-3, 0.0, 1e-3], dtype=torch.float64, requires_grad=True)
    held = bounded(small, 2.0)
    torch.testing.assert_close(held, small, rtol=1e-6, atol=0)
    held.sum().backward()
    torch.testing.assert_close(small.grad, torch.ones(3).double(), rtol=1e-5, atol=0)
    assert bounded(torch.tensor([-1e6, 1e6]), 2.0).tolist() == [-2.0, 2.0]


def test_split_standardises_a_part_that_its_kept_half_foretells() -> None:
    """Maximum likelihood must leave little of a part that is a function of the kept half."""
    split = Split(4, 2)
    kept = batch((2, 4, 4), count=64).float()
    x = torch.cat([kept, 0.5 * kept.flip(1) + 0.2], dim=1)
    optimizer = torch.optim.Adam(split.parameters(), 0.02)
    for _ in range(150):
        _, part, log_det = split(x)
        loss = -(standard_normal_log_prob(part) + log_det).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    _, part, log_det = split(x)
    least = -split.LOG_SCALE_BOUND * part[0].numel()
    assert -log_det.mean() < 0.8 * least
    assert part.square().mean() < 1.5


def test_squeeze_turns_each_block_of_four_pixels_into_channels() -> None:
    x = torch.arange(2 * 4 * 6.0).view(1, 2, 4, 6)
    y, log_det = Squeeze()(x)
    assert y.shape == (1, 8, 2, 3)
    assert not log_det.any()
    for channel in range(2):
        block = x[0, channel, 2:4, 4:6].flatten()
        assert torch.equal(y[0, 4 * channel : 4 * channel + 4, 1, 2], block)


@pytest.mark.parametrize("parity", [0, 1])
@pytest.mark.parametrize("bound", [BOUND, None])
def test_checkerboard_coupling_keeps_one_colour(
    parity: int, bound: float | None, perturb: Perturb
) -> None:
    x = batch((2, 4, 6)).float()
    y, _ = perturb(CheckerboardCoupling(2, HIDDEN, parity, bound))(x)
    for row in range(4):
        for column in range(6):
            kept = (row + column) % 2 == parity
            same = torch.equal(y[:, :, row, column], x[:, :, row, column])
            assert same == kept, (row, column)


@pytest.mark.parametrize("parity", [0, 1])
def test_checkerboard_coupling_looks_at_the_kept_colour_alone(
    parity: int, perturb: Perturb
) -> None:
    """Additive, so what a moved pixel holds can change that pixel and no other."""
    layer = perturb(CheckerboardCoupling(2, HIDDEN, parity, None, residual))
    x = batch((2, 4, 4))[:1].float()
    other = x.clone()
    other[0, :, 1, parity] += 1.0
    changed = (layer(x)[0] != layer(other)[0]).any(dim=1)[0]
    assert changed.nonzero().tolist() == [[1, parity]]


@pytest.mark.parametrize("name", [name for name in LAYERS if "Coupling" in name])
def test_to_rebuild_runs_the_network_once(name: str, perturb: Perturb) -> None:
    layer = perturb(LAYERS[name]((4, 4, 4)))
    runs: list[str] = []
    layer.network.register_forward_hook(lambda *_: runs.append(name))
    layer.rebuild(batch((4, 4, 4)).float())
    assert runs == [name]


def test_flatten_puts_even_numbers_before_odd_ones() -> None:
    x = torch.arange(12.0).view(1, 3, 2, 2)
    y, log_det = Flatten((3, 2, 2))(x)
    assert y.shape == (1, 12, 1, 1)
    assert y.flatten().tolist() == [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]
    assert not log_det.any()


def test_residual_blocks_start_as_the_identity() -> None:
    """So a deep new network says at first what a shallow one says, up to rectified biases."""
    network = residual(4, HIDDEN, 4).double()
    x = batch((4, 4, 4))
    hidden = network.first(x).relu()
    assert torch.equal(network.middle(hidden), hidden)


def test_prior_takes_the_mean_and_deviation_of_the_batch_that_initialises_it() -> None:
    layer = GaussianPrior((4, 2, 2)).double()
    x = batch((4, 2, 2), count=16)
    layer.initialize(x)
    y, _ = layer(x)
    torch.testing.assert_close(y.mean(), torch.tensor(0.0).double())
    torch.testing.assert_close(y.std(), torch.tensor(1.0).double(), rtol=1e-4, atol=0)


def test_prior_gives_each_image_its_own_class(perturb: Perturb) -> None:
    layer = perturb(GaussianPrior((4, 2, 2), classes=3)).double()
    x = batch((4, 2, 2))
    labels = torch.tensor([2, 0, 2])
    y, log_det = layer(x, labels)
    torch.testing.assert_close(layer.inverse(y, labels), x, rtol=0, atol=1e-11)
    for i, label in enumerate(labels):
        alone, alone_log_det = layer(x[i : i + 1], label[None])
        torch.testing.assert_close(alone[0], y[i])
        torch.testing.assert_close(alone_log_det[0], log_det[i])
        assert not torch.equal(layer(x[i : i + 1], (label[None] + 1) % 3)[0], alone)
        assert not torch.equal(layer(x[i : i + 1])[0], alone)


def test_channel_permutation_orders_the_channels() -> None:
    order = torch.tensor([2, 0, 3, 1])
    y, _ = ChannelPermutation(order)(batch((4, 2, 2)))
    assert torch.equal(y, batch((4, 2, 2))[:, order])


def test_autocast_does_run_the_networks_in_bfloat16(perturb: Perturb) -> None:
    layer = perturb(AffineCoupling(4, HIDDEN, BOUND))
    x = batch((4, 4, 4)).float()
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = layer(x)
    exact, _ = layer(x)
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.05)


def test_standard_normal_log_prob() -> None:
    z = batch((2, 3, 4))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=(1, 2, 3))
    torch.testing.assert_close(standard_normal_log_prob(z), expected)


def test_standard_logistic_log_prob() -> None:
    """Against the derivative of the logistic function, its cumulative distribution."""
    z = batch((2, 3, 4)) * 5
    expected = (z.sigmoid() * (1 - z.sigmoid())).log().sum(dim=(1, 2, 3))
    torch.testing.assert_close(standard_logistic_log_prob(z), expected)
    far = standard_logistic_log_prob(torch.tensor([[-800.0], [800.0]]))
    assert far.tolist() == [-800, -800]


def test_density_of_a_chain_integrates_to_one(perturb: Perturb) -> None:
    """Two dimensions, by the trapezium rule over a square that holds all but a sliver of it."""
    chain = perturb(Chain(step(2), step(2), GaussianPrior((2, 1, 1))).double(), scale=0.2)
    side = torch.linspace(-12, 12, 401, dtype=torch.float64)
    points = torch.cartesian_prod(side, side).view(-1, 2, 1, 1)
    with torch.no_grad():
        z, log_det = chain(points)
        density = (standard_normal_log_prob(z) + log_det).exp()
    mass = density.sum() * (side[1] - side[0]) ** 2
    assert mass.item() == pytest.approx(1, abs=2e-4)


def test_the_condition_of_a_1x1_is_that_of_its_matrix() -> None:
    layer = Invertible1x1(6)
    assert layer.condition() == pytest.approx(1, abs=1e-5)  # a rotation
    with torch.no_grad():
        layer.log_scale[2] += 3
    singular_values = torch.linalg.svdvals(layer.weight().double())
    assert layer.condition() == pytest.approx((singular_values[0] / singular_values[-1]).item())


@pytest.mark.parametrize("slope", [-40.0, -3.0, 0.0, 0.2, 8.0])
def test_exponential_noise_has_the_density_it_says(slope: float) -> None:
    uniform = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    noise, log_density = exponential_noise(uniform, torch.full_like(uniform, slope))
    assert noise[0] == 0
    assert noise[-1].item() == pytest.approx(1, abs=1e-3)
    middle = log_density.exp()[1:-1]
    found = (uniform[2:] - uniform[:-2]) / (noise[2:] - noise[:-2])  # du/dx of its inverse
    torch.testing.assert_close(middle[10:-10], found[10:-10], rtol=0.01, atol=1e-4)
    rises = (log_density[-1] - log_density[0]).item()
    assert rises == pytest.approx(max(-30.0, min(30.0, slope)), abs=2e-3)
