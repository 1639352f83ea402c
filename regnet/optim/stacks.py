"""Matrices of several shapes in few zero-padded stacks, so that few batched operations process all of them."""

import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# Fraction of additional work that padding may cause. RegNets need three stacks for about ten shapes.
_MAX_PADDING_WORK = 0.15


class Matrices(NamedTuple):
    """The matrices of one weight: `number` of them, each (rows, columns)."""

    number: int
    rows: int
    columns: int


class Stack(NamedTuple):
    """Matrices padded to the same wide shape, rows <= columns; tall ones are transposed.

    Attributes:
        members: indices of the weights, in ascending order.
    """

    rows: int
    columns: int
    members: tuple[int, ...]


def plan_stacks(weights: Sequence[Matrices]) -> list[Stack]:
    """Puts the matrices of every weight in one of a few stacks; a pure function of their shapes.

    Stacks are merged while padding adds at most _MAX_PADDING_WORK to the multiply-adds of Newton-Schulz iterations, the
    pair that adds the least first.
    """
    by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, (_, rows, columns) in enumerate(weights):
        by_shape[min(rows, columns), max(rows, columns)].append(index)
    stacks = [Stack(*shape, tuple(by_shape[shape])) for shape in sorted(by_shape)]

    def work(stack: Stack) -> int:
        return _work(sum(weights[index].number for index in stack.members), stack.rows, stack.columns)

    budget = (1 + _MAX_PADDING_WORK) * sum(map(work, stacks))
    while len(stacks) > 1:
        pairs = itertools.combinations(stacks, 2)
        one, other = min(pairs, key=lambda pair: work(_merged(*pair)) - sum(map(work, pair)))
        merged = sorted([_merged(one, other), *(stack for stack in stacks if stack not in (one, other))])
        if sum(map(work, merged)) > budget:
            break
        stacks = merged
    return stacks


def _merged(one: Stack, other: Stack) -> Stack:
    members = tuple(sorted(one.members + other.members))
    return Stack(max(one.rows, other.rows), max(one.columns, other.columns), members)


def _work(number: int, rows: int, columns: int) -> int:
    """Multiply-adds of a Newton-Schulz iteration: two products with `columns` and one of (rows, rows) matrices."""
    return number * rows * rows * (2 * columns + rows)


class Stacking:
    """Copies tensors of the weights' shapes to padded stacks and back, by one indexed read each way.

    Args:
        weights: dense tensors on the device.
        numbers: number of matrices into which each weight is split along dim 0.

    Attributes:
        factors: for each stack float32 (n, 1, 1), by which the Muon update of each matrix is scaled up: the root of
            rows / columns for tall matrices, 1 for the others.
    """

    def __init__(self, weights: Sequence[Tensor], numbers: Sequence[int]) -> None:
        matrices = [
            Matrices(number, len(weight) // number, weight[0].numel())
            for weight, number in zip(weights, numbers, strict=True)
        ]
        self._weights = [(weight.shape, weight.stride(), _by_stride(weight)) for weight in weights]
        self._sizes = [weight.numel() for weight in weights]
        stacks = plan_stacks(matrices)
        self._shapes = [(sum(matrices[index].number for index in each.members), *each[:2]) for each in stacks]
        self._stack_sizes = [math.prod(shape) for shape in self._shapes]
        device = weights[0].device
        self.factors = [
            torch.cat([_factor(matrices[index]) for index in stack.members]).view(-1, 1, 1).to(device)
            for stack in stacks
        ]
        to_stacks, to_weights = self._indices(stacks, matrices)
        self._to_stacks, self._to_weights = to_stacks.to(device), to_weights.to(device)
        self._zero = torch.zeros(1, device=device)

    def _indices(self, stacks: list[Stack], matrices: list[Matrices]) -> tuple[Tensor, Tensor]:
        """For each number of all stacks its position in the weights' memory, and the other way round.

        Padding is read from the position behind the last weight. int32, as it is read faster than int64.
        """
        total = sum(self._sizes)
        to_stacks = torch.full((sum(self._stack_sizes),), total, dtype=torch.int32)
        to_weights = torch.empty(total, dtype=torch.int32)
        # Views: of stacks as padded matrices, of the weights' numbers with each weight's shape and strides.
        padded = to_stacks.split(self._stack_sizes)
        positions = torch.arange(total, dtype=torch.int32).split(self._sizes)
        for stack, shape, entries in zip(stacks, self._shapes, padded, strict=True):
            begin = 0
            for index in stack.members:
                number, rows, columns = matrices[index]
                part = entries.view(shape)[begin : begin + number]
                part = part[:, :rows, :columns] if rows <= columns else part[:, :columns, :rows].mT
                part.copy_(self._as_weight(positions[index], index).reshape(part.shape))
                begin += number
        used = to_stacks != total
        to_weights[to_stacks[used].long()] = used.nonzero().flatten().int()
        return to_stacks, to_weights

    def _as_weight(self, numbers: Tensor, index: int) -> Tensor:
        """A view of contiguous numbers with the shape and the strides of a weight."""
        shape, stride, _ = self._weights[index]
        return numbers.as_strided(shape, stride, numbers.storage_offset())

    def stack(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors of the weights' shapes, float32 -> stacks (n, rows, columns) of wide matrices, padded with zeros."""
        orders = [order for _, _, order in self._weights]
        in_memory = [tensor.permute(order).reshape(-1) for tensor, order in zip(tensors, orders, strict=True)]
        numbers = torch.cat([*in_memory, self._zero]).index_select(0, self._to_stacks)
        return [part.view(shape) for part, shape in zip(numbers.split(self._stack_sizes), self._shapes, strict=True)]

    def unstack(self, stacks: Sequence[Tensor]) -> list[Tensor]:
        """The inverse of `stack`: tensors with the weights' shapes and strides."""
        numbers = torch.cat([stack.flatten() for stack in stacks]).index_select(0, self._to_weights)
        return [self._as_weight(part, index) for index, part in enumerate(numbers.split(self._sizes))]


def _by_stride(tensor: Tensor) -> list[int]:
    """The dimensions in the order of memory: a dense tensor permuted so is contiguous."""
    return sorted(range(tensor.ndim), key=tensor.stride, reverse=True)


def _factor(matrices: Matrices) -> Tensor:
    return torch.full((matrices.number,), max(1.0, matrices.rows / matrices.columns) ** 0.5)
