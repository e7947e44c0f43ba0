// The backbones by their names in options and files: one line for each.
export { bprmf } from './bpr-mf.js';
export { gru4rec } from './gru4rec.js';
export { lightgcn } from './light-gcn.js';
export { ncf } from './ncf.js';
export { neumf } from './neu-mf.js';
export { nextitnet } from './next-it-net.js';
export { sasrec } from './sasrec.js';
