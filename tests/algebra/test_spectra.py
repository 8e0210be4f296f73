"""Batched symmetric algebra against general solvers."""

import pytest
import torch
from torch import Tensor

from rankwright.algebra.spectra import ridged_inverse, solve_sylvester, spectrum


def gram(*shape: int, seed: int = 0) -> Tensor:
    """Gram matrices of random factors `(..., n, r)`, float64."""
    factor = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()
    return factor.mT @ factor


def kronecker_solution(L: Tensor, R: Tensor, C: Tensor) -> Tensor:
    """The slow reference: `(L x I + I x R) vec(X) = vec(C)`, row by row."""
    eye = torch.eye(len(L), dtype=L.dtype)
    operator = torch.kron(L, eye) + torch.kron(eye, R)
    return torch.linalg.solve(operator, C.flatten()).view_as(C)


def test_inverse_of_a_batch() -> None:
    S = gram(3, 2, 9, 4)
    eye = torch.eye(4, dtype=S.dtype)
    torch.testing.assert_close(ridged_inverse(spectrum(S), 0.3) @ (S + 0.3 * eye), eye.expand_as(S))
    torch.testing.assert_close(ridged_inverse(spectrum(S), 0.0), torch.linalg.inv(S))


def test_without_ridge_it_is_the_pseudo_inverse() -> None:
    S = gram(3, 2, 5)  # rank 2 of 5
    found = ridged_inverse(spectrum(S), 0.0)
    torch.testing.assert_close(found, torch.linalg.pinv(S, rtol=1e-12, hermitian=True))
    zero = torch.zeros(5, 5)
    assert torch.equal(ridged_inverse(spectrum(zero), 0.0), zero.double())


def test_directions_of_the_rounding_that_made_the_matrix_are_left_out() -> None:
    exact = gram(2, 5)  # rank 2 of 5
    S = spectrum(exact.float().double() + 1e-9 * torch.eye(5).double())
    unit = torch.finfo(torch.float32).eps
    expected = torch.linalg.pinv(exact, rtol=1e-12, hermitian=True)
    relative = 1e-8 * S.values.mean(-1, keepdim=True)
    for delta in (0.0, relative):
        torch.testing.assert_close(ridged_inverse(S, delta, unit), expected, rtol=1e-4, atol=1e-4)
        assert float(ridged_inverse(S, delta).norm()) > 1e3 * float(expected.norm())
    kept = ridged_inverse(S, 1.0, unit)  # a ridge above the rounding
    torch.testing.assert_close(kept, ridged_inverse(S, 1.0))


def test_a_ridge_for_each_matrix() -> None:
    S, ridge = gram(2, 9, 4), torch.tensor([[0.1], [10.0]], dtype=torch.float64)
    found = ridged_inverse(spectrum(S), ridge)
    for i in range(2):
        torch.testing.assert_close(found[i], ridged_inverse(spectrum(S[i]), float(ridge[i])))


def test_sylvester_is_the_kronecker_solution() -> None:
    L, R, C = gram(3, 9, 4), gram(3, 9, 4, seed=1), torch.randn(3, 4, 4).double()
    X = solve_sylvester(spectrum(L), spectrum(R), C)
    torch.testing.assert_close(L @ X + X @ R, C)
    for i in range(3):
        torch.testing.assert_close(X[i], kronecker_solution(L[i], R[i], C[i]))


def test_sylvester_with_a_singular_side() -> None:
    L, R, C = torch.zeros(4, 4), gram(9, 4), torch.randn(4, 4).double()
    torch.testing.assert_close(solve_sylvester(spectrum(L), spectrum(R), C) @ R, C)
    nothing = spectrum(torch.zeros(4, 4))
    assert torch.equal(solve_sylvester(nothing, nothing, C), torch.zeros_like(C))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eigenvalues_are_float64_and_not_negative(dtype: torch.dtype) -> None:
    found = spectrum(gram(2, 6).to(dtype))  # rank 2 of 6: rounding makes some eigenvalues negative
    assert found.values.dtype == found.vectors.dtype == torch.float64
    assert float(found.values.min()) == 0.0
