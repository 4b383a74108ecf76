// Write the outputs of a SavedModel for the files of a folder:
// node tfjs_node.js SAVED_MODEL FOLDER OUTPUT.json

const fs = require('fs');
const path = require('path');
const tf = require('@tensorflow/tfjs-node');

const [savedModel, folder, output] = process.argv.slice(2);

async function main() {
  const model = await tf.node.loadSavedModel(savedModel, ['serve'], 'serving_default');
  const answers = [];
  for (const name of fs.readdirSync(folder).sort()) {
    const contents = new Uint8Array(fs.readFileSync(path.join(folder, name)));
    const input = tf.tensor([contents], [1], 'string');
    const outputs = model.predict({image_bytes: input});
    const answer = {};
    for (const key of Object.keys(outputs)) {
      answer[key] = {shape: outputs[key].shape, values: Array.from(outputs[key].dataSync())};
    }
    answers.push(answer);
  }
  fs.writeFileSync(output, JSON.stringify(answers));
}

main();
