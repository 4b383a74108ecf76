# Run a SavedModel in Node, through TensorFlow's C++ loader, and compare.
#
# Usage: sh tools/check_tfjs_node.sh VENV SAVED_MODEL IMAGES WORK_FOLDER
#
# @tensorflow/tfjs-node is built against the TensorFlow libraries in VENV, as its own
# download may be unavailable. Its outputs for the image files are compared with those of
# export/run_saved_model.py. Needs node, npm, a C++ compiler and Node's headers
# (Debian: libnode-dev).
set -eu

venv=$1 saved_model=$2 images=$3 work=$4
here=$(cd "$(dirname "$0")" && pwd)

mkdir -p "$work"
work=$(cd "$work" && pwd)
cd "$work"
[ -e package.json ] || npm init --yes >/dev/null
[ -d node_modules/@tensorflow/tfjs-node ] ||
    npm install --ignore-scripts --no-audit --no-fund @tensorflow/tfjs-node@4.22.0 node-gyp
cd -  >/dev/null

module=$work/node_modules/@tensorflow/tfjs-node
tensorflow=$("$venv/bin/python" -c 'import importlib.util as u; print(u.find_spec("tensorflow").submodule_search_locations[0])')
mkdir -p "$module/deps/lib"
ln -sfn "$tensorflow/include" "$module/deps/include"
ln -sf "$tensorflow/libtensorflow_cc.so.2" "$module/deps/lib/libtensorflow.so"
ln -sf "$tensorflow/libtensorflow_cc.so.2" "$module/deps/lib/libtensorflow_cc.so.2"
for name in so so.2; do
    ln -sf "$tensorflow/libtensorflow_framework.so.2" "$module/deps/lib/libtensorflow_framework.$name"
done
if [ ! -e "$module/lib/napi-v8/tfjs_binding.node" ]; then
    (cd "$module" && "$work/node_modules/.bin/node-gyp" rebuild --nodedir=/usr \
        --module_name=tfjs_binding --module_path="$PWD/lib/napi-v8" --napi_build_version=8)
fi

"$venv/bin/python" "$here/../export/run_saved_model.py" "$saved_model" \
    --images="$images" --output="$work/tensorflow.npz" --batch_size=1
LD_LIBRARY_PATH="$tensorflow" NODE_PATH="$work/node_modules" \
    node "$here/tfjs_node.js" "$saved_model" "$images" "$work/node.json"
"$venv/bin/python" "$here/compare_tfjs_node.py" "$work/tensorflow.npz" "$work/node.json"
