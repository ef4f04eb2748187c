//! The demo path, end to end: every step must work on real parts, and the pool's books must balance.

use crate::{root, run};

#[test]
fn a_buyer_goes_through_all_eight_steps_and_all_five_families_and_the_books_balance() {
    let text = run("script/demo", &[]);
    for step in ["1. Discover", "2. Choose", "3. Negotiate", "4. Pay", "5./6. Prove and deliver", "7./8. Assess"] {
        assert!(text.contains(step), "'{step}' is missing in\n{text}");
    }
    assert!(text.contains("payment_required:"), "the unpaid query was not refused as such\n{text}");
    assert!(text.contains("replayed: nullifier"), "the replayed ticket was not refused as such\n{text}");
    assert!(text.contains("assessment: 1.000"), "a complete answer is not assessed as one\n{text}");

    for family in ["store", "lightpush", "filter", "turn", "inference"] {
        let rated = std::fs::read_to_string(root().join(format!("build/demo/rated.{family}.json"))).expect("a rating");
        let rated: serde_json::Value = serde_json::from_str(&rated).expect("JSON");
        let good = rated["score"].as_f64().expect("a score") > 0.5;
        assert_eq!((rated["published"].as_bool(), good), (Some(true), family != "store"), "{family}: {rated}");
    }
    assert!(text.contains("all 25 messages came"), "round 2 chose no better\n{text}");
    assert!(text.contains("1 that count"), "the stranger heard of no rating\n{text}");

    let query = std::fs::read_to_string(root().join("build/demo/query.json")).expect("the query's report");
    let query: serde_json::Value = serde_json::from_str(&query).expect("JSON");
    assert_eq!(query["exhausted"], true);
    assert_eq!(query["messages"].as_array().map(Vec::len), Some(25));

    let books = |who: &str| -> serde_json::Value {
        let file = root().join(format!("build/demo/books.{who}.json"));
        serde_json::from_str(&std::fs::read_to_string(file).expect("books")).expect("JSON")
    };
    let number = |book: &serde_json::Value, key: &str| -> u128 {
        book[key].as_str().expect("a number of base units").parse().expect("a number")
    };
    let all = ["buyer", "hollow", "east", "shopper", "provider"].map(books);
    let provider = &all[4];
    let accounted: u128 =
        all.iter().flat_map(|book| ["notes", "streams_unpaid", "burnt"].map(|key| number(book, key))).sum();
    assert_eq!(number(provider, "pool_balance"), accounted);
    assert!(number(provider, "burnt") > 0, "a claim burns its share");
}
