use alloy_primitives::{B256, U256};
use tributary_protocol::{
    Amount, Commitment, ErrorCode, FieldElement, Fr, Price, Rate, Seconds, UnixTime,
    error::{FieldError, RangeError},
    field::ORDER,
};

use crate::support::{amount, fr, rate, seconds, time};

#[test]
fn the_order_is_refused_never_reduced() {
    for value in [ORDER, ORDER + U256::from(1_u8), U256::MAX] {
        let refused = Err(FieldError::NotCanonical { value });
        assert_eq!(Fr::try_from_u256(value), refused);
        assert_eq!(Fr::try_from_be_bytes(&value.to_be_bytes()), refused);
        assert_eq!(Fr::try_from_text(&value.to_string()), refused);
        assert_eq!(Fr::try_from_text(&format!("{value:#x}")), refused);
        assert_eq!(Commitment::try_from(value).map(Commitment::to_fr), refused);
        assert_eq!(Commitment::try_from(B256::from(value)).map(Commitment::to_fr), refused);
        let json = format!("\"{value:#x}\"");
        let error = serde_json::from_str::<Commitment>(&json).unwrap_err();
        assert!(error.to_string().contains("not below the field order"), "{error}");
    }
    assert_eq!(FieldError::NotCanonical { value: ORDER }.code(), "TRB-1001");
    assert_eq!(Fr::try_from_u256(ORDER - U256::from(1_u8)), Ok(-Fr::from(1_u8)));
}

#[test]
fn every_form_reads_back() {
    for element in [Fr::from(0_u8), Fr::from(1_u8), -Fr::from(1_u8), fr("field.any")] {
        assert_eq!(Fr::try_from_u256(element.to_u256()), Ok(element));
        assert_eq!(Fr::try_from_be_bytes(&element.to_be_bytes()), Ok(element));
        assert_eq!(Fr::try_from_text(&element.to_decimal()), Ok(element));
        assert_eq!(Fr::try_from_text(&element.to_hex()), Ok(element));
        let wrapped = Commitment::new(element);
        assert_eq!(wrapped.to_string().parse(), Ok(wrapped));
        assert_eq!(serde_json::from_str::<Commitment>(&serde_json::to_string(&wrapped).unwrap()).unwrap(), wrapped);
    }
}

#[test]
fn text_that_is_no_integer_is_malformed() {
    let long_hex = format!("0x{}", "0".repeat(65));
    let long_decimal = "0".repeat(79);
    let wide = "9".repeat(78);
    for text in [
        "",
        "0x",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1_000",
        "0b1",
        "0X1",
        "0x0x1",
        "0xg",
        "1e3",
        &long_hex,
        &long_decimal,
        &wide,
    ] {
        let error = Fr::try_from_text(text).unwrap_err();
        assert!(matches!(error, FieldError::Malformed { .. }), "{text:?}: {error}");
        assert_eq!(error.code(), "TRB-1002");
    }
}

#[test]
fn ranges_hold_at_their_edges() {
    assert_eq!(Amount::new((1 << 120) - 1), Ok(Amount::MAX));
    assert_eq!(Rate::new((1 << 96) - 1), Ok(Rate::MAX));
    assert_eq!(Price::new(0), Ok(Price::ZERO));
    assert_eq!(UnixTime::new((1 << 40) - 1), Ok(UnixTime::MAX));

    let too_large = |what, bits: u32| RangeError::TooLarge { what, value: U256::from(1_u8) << bits as usize, bits };
    assert_eq!(Amount::new(1 << 120), Err(too_large("amount", 120)));
    assert_eq!(Rate::new(1 << 96), Err(too_large("rate", 96)));
    assert_eq!(Price::new(1 << 96), Err(too_large("price", 96)));
    assert_eq!(UnixTime::new(1 << 40), Err(too_large("time", 40)));
    assert_eq!(Seconds::new(1 << 40), Err(too_large("duration", 40)));
    assert_eq!(Rate::new(0), Err(RangeError::Zero { what: "rate" }));
    assert_eq!(Amount::try_from(U256::MAX), Err(RangeError::TooLarge { what: "amount", value: U256::MAX, bits: 120 }));
    assert_eq!(too_large("amount", 120).code(), "TRB-1201");
    assert_eq!(RangeError::Zero { what: "rate" }.code(), "TRB-1202");
}

#[test]
fn arithmetic_never_wraps() {
    let one = amount(1);
    assert_eq!(
        Amount::MAX.checked_add(one),
        Err(RangeError::Overflow { what: "amount", left: Amount::MAX.get(), right: 1, bits: 120 })
    );
    assert_eq!(Amount::ZERO.checked_sub(one), Err(RangeError::Underflow { what: "amount", left: 0, right: 1 }));
    assert_eq!(Amount::checked_sum([amount(1), amount(2), amount(3)]), Ok(amount(6)));
    assert_eq!(Amount::checked_sum([Amount::MAX, one]).unwrap_err().code(), "TRB-1203");
    assert_eq!(UnixTime::MAX.checked_add(seconds(1)).unwrap_err().code(), "TRB-1203");
    assert_eq!(time(5).checked_sub(seconds(6)).unwrap_err().code(), "TRB-1204");
    assert_eq!(UnixTime::MAX.saturating_add(Seconds::MAX), UnixTime::MAX);
    assert_eq!(time(5).saturating_sub(seconds(6)), UnixTime::ZERO);
    assert_eq!(time(5).since(time(6)), Seconds::ZERO);
    assert_eq!(Rate::MAX.times(Seconds::MAX).bit_len(), 136);
    assert_eq!(rate(3).times(seconds(7)), U256::from(21_u8));
}

#[test]
fn amounts_are_decimal_text() {
    assert_eq!(serde_json::to_string(&Amount::MAX).unwrap(), format!("\"{}\"", (1_u128 << 120) - 1));
    assert_eq!("340".parse(), Ok(amount(340)));
    for text in ["", "-1", "+1", "0x10", "1.5", " 1", "1_0"] {
        assert_eq!(text.parse::<Amount>(), Err(RangeError::NotDecimal { what: "amount" }), "{text:?}");
    }
    assert_eq!("1329227995784915872903807060280344576".parse::<Amount>().unwrap_err().code(), "TRB-1201");
    assert_eq!(RangeError::NotDecimal { what: "amount" }.code(), "TRB-1205");
}
