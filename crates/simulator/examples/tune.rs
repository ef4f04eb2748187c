use tributary_simulator::{Attack, Setup, simulate};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let f = |i: usize, d: f64| args.get(i).map_or(d, |t| t.parse().unwrap());
    let setup = Setup { providers: f(1, 200.0) as u32, buyers: f(2, 10_000.0) as u32, ..Setup::default() };
    let networks = f(3, 2.0) as u32;
    let only: Vec<usize> = args.get(4).map_or(vec![], |t| t.split(',').map(|t| t.parse().unwrap()).collect());
    let terse = args.len() > 5;
    let mut n = 0;
    for attack in Attack::EVERY {
        for tactic in attack.tactics(30) {
            n += 1;
            if !only.is_empty() && !only.contains(&n) { continue; }
            if !terse { print!("{n:2} {:<18.10} {:<60.60}", attack.to_string(), tactic.name); }
            for network in [1.0, 0.0] {
                if networks == 1 && network == 0.0 || networks == 0 && network == 1.0 { continue; }
                let a = simulate(&Setup { network, ..setup }, &tactic).unwrap();
                if terse { print!(" {n}:{:.2}/{:.2}", a.dishonest * 100., a.cheated * 100.); } else { print!(" | {:5.2} / {:5.2} ({:.2})", a.dishonest * 100., a.cheated * 100., a.least_reliable); }
            }
            if !terse { println!(); }
        }
    }
    println!();
}
