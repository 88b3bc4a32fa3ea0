#!/usr/bin/env bash
# ONNX allows negative axes. OpenCV 5.0.0's dnn module takes ScatterElements with axis 1 and raises an assertion for
# the same model with axis -1, only when it is run, not when it is read. One would expect equal results: torch.onnx
# writes tensor.scatter(-1, ...) with the negative axis.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python==5.0.0.93 numpy==2.4.6 onnx==1.23.2 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
axis 1 [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
axis -1 raises: idx < (size_t)(dims > 0 ? dims : 1)
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import cv2, numpy as np, onnx
from onnx import TensorProto, helper, numpy_helper

for axis in (1, -1):
    index = numpy_helper.from_array(np.array([[0], [2]], np.int64), "index")
    node = helper.make_node("ScatterElements", ["x", "index", "values"], ["y"], axis=axis)
    shapes = {"x": (2, 3), "values": (2, 1)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, (2, 3))
    graph = helper.make_graph([node], "g", inputs, [output], [index])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, "scatter.onnx")
    net = cv2.dnn.readNetFromONNX("scatter.onnx")
    net.setInput(np.zeros((2, 3), np.float32), "x")
    net.setInput(np.ones((2, 1), np.float32), "values")
    try:
        print("axis", axis, net.forward().tolist())
    except cv2.error as error:
        print("axis", axis, "raises:", error.err)
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
