// Makes @chainsafe/discv5 speak Waku's discv5: its protocol id is a constant, "discv5", and Waku's is "d5waku". Nothing
// else is changed. Load with `node --import ./d5waku.mjs`.
import { register } from "node:module";

const hook = `
  export async function load(url, context, next) {
    const loaded = await next(url, context);
    if (!/@chainsafe\\/discv5\\/lib\\/packet\\/(create|encode)\\.js$/.test(url)) return loaded;
    const source = String(loaded.source);
    const changed = source.replaceAll('"discv5"', '"d5waku"');
    if (changed === source) throw new Error("no protocol id in " + url);
    return { ...loaded, source: changed };
  }`;
register("data:text/javascript," + encodeURIComponent(hook));

// Node 20 has none yet, and newer libp2p packages use it.
Promise.withResolvers ??= function () {
  let resolve, reject;
  const promise = new this((yes, no) => ((resolve = yes), (reject = no)));
  return { promise, resolve, reject };
};
