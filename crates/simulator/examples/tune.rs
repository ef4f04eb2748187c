use std::time::Instant;
use tributary_simulator::{Attack, Setup, simulate};
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let f = |i: usize, d: f64| args.get(i).map_or(d, |t| t.parse().unwrap());
    let setup = Setup { providers: f(1, 200.0) as u32, buyers: f(2, 10_000.0) as u32, ..Setup::default() };
    let only = args.get(3).cloned().unwrap_or_default();
    for attack in Attack::EVERY {
        for tactic in attack.tactics(30) {
            if !attack.to_string().contains(&only) && !tactic.name.contains(&only) { continue; }
            let t = Instant::now();
            let a = simulate(&setup, &tactic).unwrap();
            let t1 = t.elapsed().as_secs_f64();
            let b = simulate(&Setup { network: 0.0, ..setup }, &tactic).unwrap();
            println!("{:<18} {:<75} with {:5.2} / {:5.2}   without {:5.2} / {:5.2}   {:.2} s",
                attack.to_string(), tactic.name, a.dishonest * 100., a.cheated * 100., b.dishonest * 100., b.cheated * 100., t1);
        }
    }
}
