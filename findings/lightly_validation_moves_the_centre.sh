#!/usr/bin/env bash
# lightly 1.6.0 with torch 2.15.0: DINOLoss and IBOTPatchLoss move their centre each time a loss is computed, in eval mode
# and under torch.no_grad() too, so that computing a validation loss changes the training that follows.
#
# A good engineer would take the centre for what a batch norm's running mean is: a buffer that train() moves and eval()
# leaves alone. But forward() ends with the centre's update, whatever the mode, and forty batches of validation images
# leave 0.9^40, a hundredth and a half, of the centre of the training images. Where the two sets differ (other crops,
# another resolution, one class after the other) the teacher's next targets are others. Nothing fails; two runs that
# differ only in how often they validate differ in their weights. Who wants a validation loss puts the buffer back, or
# computes it with a copy of the criterion.
#
# Seen, with training images whose teacher outputs are 0 and validation images that give 0.2 to the first of 8 components:
#   DINOLoss: the centre's first component 0.000 before, 0.020 after one batch, 0.197 after forty; what the teacher gives
#     that component for a training image 0.125 before, 0.001 after; IBOTPatchLoss: the same
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet torch==2.15.0 torchvision==0.29.2 numpy==2.4.6 lightly==1.6.0
CUDA_VISIBLE_DEVICES= LIGHTLY_DID_VERSION_CHECK=True "$folder/env/bin/python" - <<'PYTHON'
import torch
from lightly.loss import DINOLoss, IBOTPatchLoss

K = 8
training, validation = torch.zeros(16, K), torch.zeros(16, K)
validation[:, 0] = 0.2  # images that the first component likes


def dino(criterion, teacher):
    return criterion(teacher_out=[teacher, teacher], student_out=[torch.zeros(16, K)] * 2)


def ibot(criterion, teacher):
    return criterion(teacher_out=teacher, student_out=torch.zeros(16, K), mask=torch.ones(4, 2, 2, dtype=torch.bool))


for kind, compute in ((DINOLoss, dino), (IBOTPatchLoss, ibot)):
    criterion = kind(output_dim=K)
    for _ in range(3):
        compute(criterion, training)
    criterion.eval()
    seen = []
    with torch.no_grad():
        for count in (0, 1, 39):
            for _ in range(count):
                compute(criterion, validation)
            centre = [value for name, value in criterion.named_buffers() if "center" in name][0].flatten()
            seen.append((float(centre[0]), float(torch.softmax(-centre / 0.04, dim=0)[0])))
    (before, share), (one, _), (many, share_after) = seen
    print(
        f"{kind.__name__}: the centre's first component {before:.3f} before, {one:.3f} after one batch, {many:.3f} after "
        f"forty; what the teacher gives that component for a training image {share:.3f} before, {share_after:.3f} after"
    )
    assert before == 0 and abs(one - 0.02) < 1e-6 and abs(many - 0.2 * (1 - 0.9**40)) < 1e-4
    assert abs(share - 1 / K) < 1e-6 and share_after < 0.002
PYTHON
