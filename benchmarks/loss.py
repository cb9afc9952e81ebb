"""How much faster and leaner is the loss over supervised positions than transformers' own?

Hidden states to loss and back, with the head's matrix products: ours in chunks over the labelled
positions, and `ForCausalLMLoss` over whole logits. Both start from the same states and weights, and
their values and gradients are compared first. Memory is the growth of the process's peak, gradients
included.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from harness import interleaved, peak_growth, print_result, quick_asked
from transformers.loss.loss_utils import ForCausalLMLoss

from mm1_hf.model.loss_mm1 import VocabularyHead, next_token_loss

VOCABULARY, WIDTH = 32_000, 768


def contestants(share: float, *, tokens: int) -> dict[str, Callable[[], list[torch.Tensor]]]:
    """Loss and gradients by ours and by transformers, for one share of labelled positions."""
    head = VocabularyHead(WIDTH, VOCABULARY, bias=False)
    states = torch.randn(1, tokens, WIDTH, requires_grad=True)
    labels = torch.randint(VOCABULARY, (1, tokens))
    labels[torch.rand(1, tokens) >= share] = -100

    def gradients(loss: torch.Tensor) -> list[torch.Tensor]:
        loss.backward()
        result = [loss.detach(), states.grad, head.weight.grad]
        states.grad = head.weight.grad = None
        return result

    def ours() -> list[torch.Tensor]:
        return gradients(next_token_loss(head, states, F.pad(labels, (0, 1), value=-100)[:, 1:]))

    def theirs() -> list[torch.Tensor]:
        return gradients(ForCausalLMLoss(head(states), labels, vocab_size=VOCABULARY))

    for found, expected in zip(ours(), theirs(), strict=True):
        assert (found - expected).norm() <= 2e-6 * expected.norm(), "they do not agree"
    return {"ours": ours, "transformers": theirs}


def main() -> None:
    quick = quick_asked(__doc__, help="shorter sequences, fewer rounds")
    ratios, figures = {}, {"vocabulary": VOCABULARY, "width": WIDTH}
    for percent in (25, 100):
        tokens = 2048 if quick else 4096  # MM1's sequence length
        works = contestants(percent / 100, tokens=tokens)
        seconds = interleaved(works, rounds=2 if quick else 7)
        mebibytes = {name: peak_growth(work) for name, work in works.items()}
        ratios[f"ce_{percent}_speed"] = round(seconds["transformers"] / seconds["ours"], 2)
        ratios[f"ce_{percent}_memory"] = round(mebibytes["transformers"] / mebibytes["ours"], 1)
        figures[f"labelled_{percent}"] = {
            "tokens": tokens,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "peak_mib": {name: round(value) for name, value in mebibytes.items()},
        }
        print(f"{percent:>3} % labelled: {figures[f'labelled_{percent}']}")
    print_result("loss", ratios=ratios, figures=figures)


if __name__ == "__main__":
    main()
