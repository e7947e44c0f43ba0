// The backbones by their names in options and files: one line for each.
export { gru4rec } from './gru4rec.js';
export { sasrec } from './sasrec.js';
