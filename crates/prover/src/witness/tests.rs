//! Against the programs themselves: circom compiles a circuit of every operator and kind of control flow, Node runs its program as
//! circom means it, and the traced graph must give the same witness or refuse the same inputs.

use std::{fs, path::Path, process::Command};

use ark_bn254::Fr;
use ark_ff::{PrimeField, UniformRand};
use rand::{SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::{compile, graph::Graph, name_hash};

struct Compiled {
    dir: TempDir,
    graph: Result<Graph, String>,
}

/// Compiles a circuit whose file is called `main.circom`.
fn circuit(source: &str) -> Compiled {
    let dir = TempDir::new().expect("a temporary folder");
    fs::write(dir.path().join("main.circom"), source).expect("written");
    let compiler = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../node_modules/circom2/cli.js");
    let out = Command::new("node")
        .arg(compiler.canonicalize().expect("circom2 is installed; ./script/setup does it"))
        .args(["main.circom", "--wasm", "--r1cs", "--O2"])
        .current_dir(dir.path())
        .output()
        .expect("node runs");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("Everything went okay"), "{said}");
    let wasm = fs::read(dir.path().join("main_js/main.wasm")).expect("compiled");
    Compiled { graph: compile(&wasm), dir }
}

impl Compiled {
    /// The witnesses that circom's own program gives, `None` where it refuses.
    fn expected(&self, inputs: &[[Fr; 2]]) -> Vec<Option<Vec<Fr>>> {
        const SCRIPT: &str = "
            const fs = require('fs');
            const calculator = require('./main_js/witness_calculator.js');
            console.error = () => {};
            (async () => {
              const code = fs.readFileSync('main_js/main.wasm');
              const answers = [];
              for (const [a, b] of JSON.parse(fs.readFileSync('inputs.json'))) {
                try {
                  const witness = await (await calculator(code)).calculateWitness({ a, b }, 0);
                  answers.push(witness.map(String));
                } catch {
                  answers.push(null);
                }
              }
              fs.writeFileSync('answers.json', JSON.stringify(answers));
            })();";
        let decimal: Vec<[String; 2]> = inputs.iter().map(|pair| pair.map(|x| x.to_string())).collect();
        let json = serde_json::to_string(&decimal).expect("JSON");
        fs::write(self.dir.path().join("inputs.json"), json).expect("written");
        let out = Command::new("node").args(["-e", SCRIPT]).current_dir(self.dir.path()).output().expect("node runs");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let text = fs::read(self.dir.path().join("answers.json")).expect("answered");
        let answers: Vec<Option<Vec<String>>> = serde_json::from_slice(&text).expect("JSON");
        let number = |x: &String| x.parse::<Fr>().unwrap_or_else(|()| panic!("{x} is no field element"));
        answers.iter().map(|witness| witness.as_ref().map(|w| w.iter().map(number).collect())).collect()
    }

    fn ours(&self, [a, b]: [Fr; 2]) -> Option<Vec<Fr>> {
        let graph = self.graph.as_ref().expect("traced");
        let mut elements = [Fr::from(0u64); 2];
        for (name, value) in [("a", a), ("b", b)] {
            elements[graph.inputs[&name_hash(name)].first as usize] = value;
        }
        graph.run(&elements).ok()
    }

    fn agree(&self, inputs: &[[Fr; 2]]) -> usize {
        let expected = self.expected(inputs);
        assert_eq!(expected.len(), inputs.len());
        for (pair, expected) in inputs.iter().zip(&expected) {
            assert_eq!(self.ours(*pair), *expected, "inputs {} and {}", pair[0], pair[1]);
        }
        expected.iter().flatten().count()
    }
}

/// Pairs of edge values, and random ones.
fn pairs() -> Vec<[Fr; 2]> {
    let half = Fr::from_bigint(Fr::MODULUS_MINUS_ONE_DIV_TWO).expect("below the modulus");
    let one = Fr::from(1u64);
    let edges = [
        Fr::from(0u64),
        one,
        Fr::from(2u64),
        Fr::from(7u64),
        Fr::from(253u64),
        Fr::from(254u64),
        Fr::from(u64::MAX),
        half,
        half + one,
        -Fr::from(2u64),
        -one,
    ];
    let mut out: Vec<_> = edges.iter().flat_map(|a| edges.iter().map(|b| [*a, *b])).collect();
    let mut rng = StdRng::from_seed([7; 32]);
    out.extend((0..20).map(|_| [Fr::rand(&mut rng), Fr::rand(&mut rng)]));
    out.extend((0..20).map(|i| [Fr::rand(&mut rng), Fr::from(13 * i as u64)]));
    out
}

#[test]
fn every_operator_means_what_circom_means() {
    let compiled = circuit(
        "pragma circom 2.2.0;
        template Main() {
            signal input a;
            signal input b;
            signal output o[20];
            o[0] <-- a + b;
            o[1] <-- a - b;
            o[2] <-- a * b;
            o[3] <-- -a;
            o[4] <-- b != 0 ? a / b : 5;
            o[5] <-- b != 0 ? a \\ b : 5;
            o[6] <-- b != 0 ? a % b : 5;
            o[7] <-- a == b;
            o[8] <-- a != b;
            o[9] <-- a < b;
            o[10] <-- a <= b;
            o[11] <-- a > b;
            o[12] <-- a >= b;
            o[13] <-- (a != 0 && b != 0) + 2 * (a != 0 || b != 0) + 4 * !(a == b);
            o[14] <-- a & b;
            o[15] <-- a | b;
            o[16] <-- a ^ b;
            o[17] <-- ~a;
            o[18] <-- a << 3;
            o[19] <-- (a >> 5) + 3 * ((a >> 7) & 1) + 11 * ((b >> 253) & 1);
        }
        component main = Main();",
    );
    let inputs = pairs();
    assert_eq!(compiled.agree(&inputs), inputs.len());
}

#[test]
fn shifts_and_powers_by_signals() {
    let compiled = circuit(
        "pragma circom 2.2.0;
        template Main() {
            signal input a;
            signal input b;
            signal output o[3];
            o[0] <-- a >> b;
            o[1] <-- a << b;
            o[2] <-- a ** b;
        }
        component main = Main();",
    );
    // Distances that a program may sensibly use; the run time's behaviour far beyond is not the language's.
    let inputs: Vec<_> = pairs().into_iter().filter(|[_, b]| *b <= Fr::from(253u64)).collect();
    assert!(inputs.len() > 50);
    assert_eq!(compiled.agree(&inputs), inputs.len());
}

#[test]
fn branches_loops_functions_and_components() {
    let compiled = circuit(
        "pragma circom 2.2.0;
        function table(n) {
            if (n == 0) { return [3, 5, 7]; }
            return [11, 13, 17];
        }
        function largest(x, y) {
            var out = y;
            if (x > y) { out = x; }
            return out;
        }
        template Inner(k) {
            signal input in;
            signal output out;
            var constants[3] = table(k);
            var sum = 0;
            for (var i = 0; i < 3; i++) {
                if (in > constants[i]) {
                    if (in > 2 * constants[i]) { sum += in * constants[i]; } else { sum -= constants[i]; }
                } else {
                    sum += 1;
                }
            }
            out <-- sum;
        }
        template Main() {
            signal input a;
            signal input b;
            signal output o[4];
            component inner[2];
            for (var i = 0; i < 2; i++) {
                inner[i] = Inner(i);
                inner[i].in <-- i == 0 ? a : b;
                o[i] <-- inner[i].out;
            }
            o[2] <-- largest(a, b);
            var x = a;
            var y = b;
            if (x == y) { y = y + 1; x = y * 2; } else if (x < y) { x = 1 / (x - y); }
            o[3] <-- x * y;
        }
        component main = Main();",
    );
    let inputs = pairs();
    assert_eq!(compiled.agree(&inputs), inputs.len());
}

#[test]
fn refusals_are_the_same() {
    let compiled = circuit(
        "pragma circom 2.2.0;
        template Main() {
            signal input a;
            signal input b;
            signal output o;
            var x = a;
            if (a < 8) {
                if (b < 8) { assert(a != b); x = b; }
            }
            o <-- x;
            signal s <== a * b;
            s * (s - 49) * 0 === 0;
            signal t <-- a == 253 ? 1 : 0;
            t * b === 0;
        }
        component main = Main();",
    );
    let inputs = pairs();
    let accepted = compiled.agree(&inputs);
    assert!(0 < accepted && accepted < inputs.len(), "{accepted} of {} accepted", inputs.len());
}

#[test]
fn what_depends_on_an_input_but_must_not_is_refused_not_guessed() {
    let index = circuit(
        "pragma circom 2.2.0;
        template Main() {
            signal input a;
            signal input b;
            signal output o;
            var x[3] = [b, 2 * b, 3 * b];
            o <-- x[a];
        }
        component main = Main();",
    );
    let reason = index.graph.expect_err("an index that depends on an input");
    assert!(reason.contains("index depends on an input"), "{reason}");

    let length = circuit(
        "pragma circom 2.2.0;
        template Main() {
            signal input a;
            signal input b;
            signal output o;
            var n = 0;
            for (var i = 0; i < a; i++) { n += b; }
            o <-- n;
        }
        component main = Main();",
    );
    let reason = length.graph.expect_err("a loop whose length depends on an input");
    assert!(reason.contains("loop's length depends on an input"), "{reason}");
}

#[test]
fn stored_graphs_come_back_whole_and_spoilt_ones_do_not() {
    let compiled = circuit(
        "pragma circom 2.2.0;
        template Main() {
            signal input a;
            signal input b;
            signal output o;
            o <-- a > b ? a * b + ((a >> 3) & 1) : 9;
            a * (b - 1) === 0;
        }
        component main = Main();",
    );
    let graph = compiled.graph.expect("traced");
    let program = [5; 32];
    let bytes = graph.to_bytes(&program);
    assert_eq!(Graph::from_bytes(&bytes, &program).as_ref(), Some(&graph));
    assert_eq!(Graph::from_bytes(&bytes, &[6; 32]), None);
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_eq!(Graph::from_bytes(&other, &program), None, "byte {at}");
        assert_eq!(Graph::from_bytes(&bytes[..at], &program), None, "the first {at} bytes");
    }
    // Changed and sealed again, it may come back, but never refer outside itself: running it must not panic.
    use sha2::Digest;
    for at in 40..bytes.len() - 32 {
        let mut other = bytes[..bytes.len() - 32].to_vec();
        other[at] ^= 0x80;
        let hash = sha2::Sha256::digest(&other);
        other.extend_from_slice(&hash);
        if let Some(graph) = Graph::from_bytes(&other, &program)
            && graph.input_count == 2
        {
            let _ = graph.run(&[Fr::from(3u64), Fr::from(1u64)]);
        }
    }
}
