use alloy_primitives::{Address, U256};
use ark_ff::{BigInt, One, PrimeField, UniformRand, Zero};
use tributary_protocol::{
    ErrorCode, FieldElement, Fr, Mnemonic, PaymentAddress, PoolId, PoolScope, Seed,
    babyjub::{Point, Scalar, ViewingKey},
    error::{AddressError, KeyError, PointError},
    keys::{AccountKeys, MemoKey, PayerKey, SpendKey, ViewSecret},
    memo::EphemeralSecret,
    note::PayerSecret,
    witness::{CircuitInputs, Dummy, Witness},
};

use crate::support::{PHRASE, World, fr, keys, rng, scope};

fn secrets(keys: &AccountKeys) -> [Vec<u8>; 4] {
    [
        keys.spend.expose().to_be_bytes().to_vec(),
        keys.payer.expose().to_be_bytes().to_vec(),
        U256::from_limbs(keys.view.expose().0).to_be_bytes_vec(),
        keys.memo.expose().to_vec(),
    ]
}

#[test]
fn every_part_of_the_scope_changes_every_key() {
    let seed = Mnemonic::parse(PHRASE).unwrap().seed("");
    let base = scope(0);
    let others = [
        PoolScope { account: 1, ..base },
        PoolScope { pool: PoolId { chain_id: 1, ..base.pool }, ..base },
        PoolScope { pool: PoolId { address: Address::repeat_byte(9), ..base.pool }, ..base },
    ];
    let mut all: Vec<Vec<u8>> = secrets(&seed.account(base).unwrap()).to_vec();
    for other in others {
        all.extend(secrets(&seed.account(other).unwrap()));
    }
    all.extend(secrets(&Mnemonic::parse(PHRASE).unwrap().seed("passphrase").account(base).unwrap()));
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_bad_phrase_is_named_without_its_words() {
    let reason = |phrase: &str| match Mnemonic::parse(phrase) {
        Err(error @ KeyError::Mnemonic { reason }) => {
            assert_eq!(error.code(), "TRB-1111");
            assert!(!error.to_string().contains("abandon") && !error.to_string().contains("zebrafish"));
            reason
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(reason("abandon abandon"), "it must have 12, 15, 18, 21 or 24 words");
    assert_eq!(reason(&PHRASE.replace("about", "zebrafish")), "a word is not in the English BIP-39 list");
    assert_eq!(reason(&PHRASE.replace("about", "abandon")), "its checksum does not match");
    assert_eq!(reason(""), "it must have 12, 15, 18, 21 or 24 words");
}

#[test]
fn a_generated_phrase_reads_back() {
    let phrase = Mnemonic::generate(&mut rng("keys.generate"));
    assert_eq!(phrase.expose().split(' ').count(), 24);
    assert_eq!(Mnemonic::parse(&phrase.expose()), Ok(phrase));
}

#[test]
fn zero_secrets_are_refused() {
    assert_eq!(SpendKey::try_new(Fr::zero()), Err(KeyError::InvalidSecret { what: "spend" }));
    assert_eq!(ViewSecret::try_new(Scalar::zero()).unwrap_err(), KeyError::InvalidSecret { what: "view" });
    assert_eq!(EphemeralSecret::try_new(BigInt::zero()), Err(KeyError::InvalidSecret { what: "ephemeral" }));
    let too_long = BigInt::new([0, 0, 0, 1 << 58]);
    assert_eq!(EphemeralSecret::try_new(too_long), Err(KeyError::InvalidSecret { what: "ephemeral" }));
    assert!(EphemeralSecret::try_new(BigInt::new([u64::MAX, u64::MAX, u64::MAX, (1 << 58) - 1])).is_ok());
    assert_eq!(Dummy::from_secret_bytes(&[0; 32]), Err(KeyError::InvalidSecret { what: "spend" }));
    assert_eq!(Dummy::from_secret_bytes(&[0xff; 32]), Err(KeyError::InvalidSecret { what: "dummy" }));
    assert_eq!(KeyError::InvalidSecret { what: "spend" }.code(), "TRB-1112");
}

#[test]
fn dummies_read_back() {
    let dummy = Dummy::random(&mut rng("keys.dummy"));
    assert_eq!(Dummy::from_secret_bytes(&dummy.to_secret_bytes()), Ok(dummy));
}

#[test]
fn debug_shows_no_secret() {
    let keys = keys(0);
    let world = World::new();
    let witness = crate::witnesses::open(&world);
    let inputs: CircuitInputs = witness.inputs_unchecked();
    let shown = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {witness:?} {inputs:?}",
        keys,
        Mnemonic::parse(PHRASE).unwrap(),
        Seed::new([7; 64]),
        MemoKey::new([7; 32]),
        PayerKey::new(fr("keys.k")),
        PayerSecret::new(fr("keys.ps")),
    );
    for secret in secrets(&keys).into_iter().chain([fr("keys.k"), fr("keys.ps")].map(|s| s.to_be_bytes().to_vec())) {
        let value = U256::from_be_slice(&secret);
        for form in [format!("{value:x}"), value.to_string(), format!("{value:X}"), format!("{secret:?}")] {
            assert!(!shown.contains(&form), "a secret is shown");
        }
    }
    assert!(!shown.contains("abandon"));
    let esk = inputs.get("outEsk").unwrap()[0];
    assert!(!shown.contains(&esk.to_decimal()) && !shown.contains(&esk.to_hex()[2..]));
}

#[test]
fn addresses_read_back_in_either_case() {
    let address = keys(0).address();
    let text = address.to_string();
    assert!(text.starts_with("trib1"));
    assert_eq!(text.parse(), Ok(address));
    assert_eq!(text.to_uppercase().parse(), Ok(address));
    assert_eq!(PaymentAddress::from_bytes(&address.to_bytes()), Ok(address));
    let mixed = text.replacen('q', "Q", 1);
    assert_eq!(mixed.parse::<PaymentAddress>().unwrap_err().code(), "TRB-1121");
    assert_eq!(PaymentAddress::from_bytes(&[]).unwrap_err().code(), "TRB-1124");
}

/// A character more, with the right checksum, would decode to the same bytes.
#[test]
fn an_address_has_one_text() {
    use bech32::{
        Bech32m, Fe32, Hrp,
        primitives::iter::{ByteIterExt, Fe32IterExt},
    };
    let address = keys(0).address();
    let prefix = Hrp::parse("trib").unwrap();
    let text = |extra: Option<Fe32>| {
        let payload = address.to_bytes();
        let symbols = payload.iter().copied().bytes_to_fes().chain(extra);
        symbols.with_checksum::<Bech32m>(&prefix).chars().collect::<String>()
    };
    assert_eq!(text(None).parse(), Ok(address));
    assert_eq!(text(Some(Fe32::Q)).parse::<PaymentAddress>(), Err(AddressError::Encoding));
}

#[test]
fn white_space_in_a_phrase_does_not_matter() {
    let spaced = format!("  {}\n", PHRASE.replace(' ', "  "));
    assert_eq!(Mnemonic::parse(&spaced), Mnemonic::parse(PHRASE));
}

#[test]
fn compression_reads_back_and_is_the_only_encoding() {
    let mut rng = rng("keys.points");
    for _ in 0..50 {
        let point = Point::BASE8.mul(&Scalar::rand(&mut rng));
        let bytes = point.compress();
        assert_eq!(Point::decompress(&bytes), Ok(point));
        let mut other = bytes;
        other[0] ^= 0x80;
        assert_eq!(Point::decompress(&other).map(|p| (p.x(), p.y())), Ok((-point.x(), point.y())));
    }
    let mut not_canonical = tributary_protocol::field::ORDER.to_be_bytes::<32>();
    assert_eq!(Point::decompress(&not_canonical).unwrap_err().code(), "TRB-1103");
    not_canonical[31] += 1; // y = r + 1, the alias of the neutral element's y
    assert_eq!(Point::decompress(&not_canonical).unwrap_err().code(), "TRB-1103");
    let mut neutral = Point::new(Fr::zero(), Fr::one()).unwrap().compress();
    neutral[0] |= 0x80;
    assert_eq!(Point::decompress(&neutral), Err(PointError::NonCanonicalSign));
}

#[test]
fn small_order_and_shifted_points_are_no_viewing_keys() {
    let neutral = Point::new(Fr::zero(), Fr::one()).unwrap();
    let order_2 = Point::new(Fr::zero(), -Fr::one()).unwrap();
    let order_4 = Point::decompress(&[0; 32]).unwrap();
    let view = keys(0).view.public();
    let shifted = Point::new(-view.point().x(), -view.point().y()).unwrap(); // V + (0, -1)
    for point in [neutral, order_2, order_4, shifted] {
        assert_eq!(ViewingKey::new(point), Err(PointError::NotInSubgroup));
        let json = serde_json::to_string(&point).unwrap();
        assert_eq!(serde_json::from_str::<Point>(&json).unwrap(), point);
        assert!(serde_json::from_str::<ViewingKey>(&json).is_err());
    }
    assert_eq!(ViewingKey::new(*view.point()), Ok(view));
    assert_eq!(Point::new(Fr::one(), Fr::one()), Err(PointError::NotOnCurve));
    assert_eq!(PointError::NotInSubgroup.code(), "TRB-1102");
}

#[test]
fn the_subgroup_order_annihilates_the_generator() {
    let order = Scalar::MODULUS;
    let neutral = Point::new(Fr::zero(), Fr::one()).unwrap();
    assert_eq!(Point::BASE8.mul_integer(order), neutral);
    assert!(Point::BASE8.is_in_prime_subgroup());
}
