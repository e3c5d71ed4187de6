"""A compiled network answers as before, keeps its names, and says early where it cannot be had."""

import copy

import pytest
import torch

from deit_transfer.errors import ResourceError
from deit_transfer.models.classifier import build_classifier
from deit_transfer.models.compile import compile_network, why_no_compiler

CPU = torch.device("cpu")
# torch looks at the gradient of a block's input while it traces the block
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_classifier(name="deit_micro", num_classes=3, resolution=32)


def gradients(network, images):
    network.zero_grad()
    network(images).class_logits.square().sum().backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


def test_logits_and_gradients_are_those_of_the_plain_network(network):
    plain = copy.deepcopy(network).eval()
    # this backend traces and differentiates like the usual one, and needs no C++ compiler
    compile_network(network.eval(), device=CPU, backend="aot_eager")
    for count in (4, 3):  # the last batch is a smaller one
        images = torch.randn(count, 3, 32, 32)
        torch.testing.assert_close(network(images).class_logits, plain(images).class_logits)
        torch.testing.assert_close(gradients(network, images), gradients(plain, images))


def test_names_stay_and_copies_are_plain(network):
    names = list(network.state_dict())
    compile_network(network, device=CPU, backend="aot_eager")
    assert list(network.state_dict()) == names
    assert all(block._compiled_call_impl is not None for block in network.backbone.blocks)
    copied = copy.deepcopy(network)
    assert all(block._compiled_call_impl is None for block in copied.backbone.blocks)


def test_a_machine_that_cannot_compile_is_told_so_before_the_first_step(network):
    def broken(graph, examples):
        raise RuntimeError("no compiler\n\nand much more")

    with pytest.raises(
        ResourceError, match=r"does not work on this machine: .*no compiler$"
    ) as got:
        compile_network(network, device=CPU, backend=broken)
    assert "run.compile" in got.value.hint
    assert all(block._compiled_call_impl is None for block in network.backbone.blocks)


def test_blocks_share_their_code(network):
    compiled = []

    def counting(graph, _examples):
        compiled.append(graph)
        return graph.forward

    compile_network(network.eval(), device=CPU, backend=counting)
    compiled.clear()  # the trial
    network(torch.randn(2, 3, 32, 32))
    assert len(network.backbone.blocks) > len(compiled) == 1


def test_a_network_without_blocks_is_compiled_whole():
    network = torch.nn.Sequential(torch.nn.Linear(2, 2))
    compile_network(network, device=CPU, backend="aot_eager")
    assert network._compiled_call_impl is not None


def test_why_no_compiler_says_nothing_where_one_works():
    assert why_no_compiler(CPU, backend="aot_eager") == ""
