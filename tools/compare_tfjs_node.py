"""Compare the outputs of Node and TensorFlow: see check_tfjs_node.sh."""

import json
import sys

import numpy as np

LIMITS = {"detection_boxes": 1e-3, "detection_scores": 1e-4, "confidence": 1e-4}

expected = np.load(sys.argv[1])
with open(sys.argv[2]) as file:
    answers = json.load(file)
worst = {}
for number, answer in enumerate(answers):
    for name, output in answer.items():
        values = np.reshape(np.array(output["values"], float), output["shape"])[0]
        difference = np.abs(values - expected[f"{number}/{name}"]).max(initial=0.0)
        difference = float(np.nan_to_num(difference, nan=np.inf))
        worst[name] = max(worst.get(name, 0.0), difference)
for name, difference in sorted(worst.items()):
    print(f"largest difference of {name}: {difference:.2g}")
is_equal = bool(worst) and all(v <= LIMITS.get(k, 0.0) for k, v in worst.items())
print(f"{len(answers)} images: {'equal' if is_equal else 'NOT equal'}")
sys.exit(0 if is_equal else 1)
