//! Every form of a report, and what is none.

use proptest::prelude::*;

use super::*;

fn report(utilization: f64, rps: Option<f64>, eps: Option<f64>) -> Option<LoadReport> {
    Some(LoadReport { utilization, rps, eps })
}

#[test]
fn text_and_json() {
    let long = format!("TEXT cpu_utilization=0.5,a={}", "0".repeat(MAX));
    let keys: String = (0..=MAX_KEYS).map(|i| format!(",k{i}=1")).collect();
    let many = format!("TEXT cpu_utilization=0.5{keys}");
    for (value, expected) in [
        ("TEXT cpu_utilization=0.3,mem_utilization=0.8,rps_fractional=10.5,eps=1", report(0.3, Some(10.5), Some(1.0))),
        ("TEXT cpu_utilization=0.3, application_utilization=1.5", report(1.5, None, None)),
        ("TEXT application_utilization=0,cpu_utilization=2e-1", report(0.2, None, None)),
        ("TEXT cpu_utilization=0.5,named_metrics.x=3,utilization.y=0.1", report(0.5, None, None)),
        ("TEXT cpu_utilization=0.5,rps_fractional=0,eps=0", report(0.5, None, None)),
        ("JSON {\"cpu_utilization\":0.25,\"rps_fractional\":100,\"eps\":0.5}", report(0.25, Some(100.0), Some(0.5))),
        ("JSON {\"applicationUtilization\": 0.5, \"rpsFractional\": 4}", report(0.5, Some(4.0), None)),
        ("JSON {\"cpu_utilization\":0.5,\"named_metrics\":{\"x\":[1,{}]}}", report(0.5, None, None)),
        ("JSON {\"mem_utilization\":0.5}", None),
        ("TEXT mem_utilization=0.5", None),
        ("TEXT cpu_utilization=0", None),
        ("TEXT cpu_utilization=-0.5", None),
        ("TEXT cpu_utilization=NaN", None),
        ("TEXT cpu_utilization=inf", None),
        ("TEXT cpu_utilization=1e999", None),
        ("TEXT cpu_utilization=0.5,mem_utilization=-1", None),
        ("TEXT cpu_utilization=0.5,other=nan", None),
        ("TEXT cpu_utilization=0.5,eps=-1", None),
        ("TEXT cpu_utilization=0.5,cpu_utilization=0.6", None),
        ("TEXT cpu_utilization=0.5,x=1,x=1", None),
        ("TEXT cpu_utilization", None),
        ("TEXT cpu_utilization=", None),
        ("TEXT =0.5", None),
        ("TEXT cpu_utilization=0.5,", None),
        ("TEXT", None),
        ("TEXT ", None),
        ("text cpu_utilization=0.5", None),
        ("cpu_utilization=0.5", None),
        ("", None),
        (" ", None),
        ("JSON {\"cpu_utilization\":0.5,\"cpu_utilization\":0.6}", None),
        ("JSON {\"cpu_utilization\":0.5,\"cpuUtilization\":0.6}", None),
        ("JSON {\"cpu_utilization\":\"0.5\"}", None),
        ("JSON {\"cpu_utilization\":NaN}", None),
        ("JSON {\"cpu_utilization\":1e999}", None),
        ("JSON {\"cpu_utilization\":-1}", None),
        ("JSON {\"cpu_utilization\":0.5}x", None),
        ("JSON 1", None),
        (&long, None),
        (&many, None),
    ] {
        assert_eq!(worded(value.as_bytes()), expected, "{value}");
    }
    assert_eq!(worded(b"TEXT cpu_utilization=0.5\xff"), None);
}

fn double(field: u8, value: f64) -> Vec<u8> {
    [vec![field << 3 | 1], value.to_le_bytes().to_vec()].concat()
}

#[test]
fn protobuf_in_base64_with_and_without_padding() {
    let message = [
        double(1, 0.5),
        double(2, 0.25),
        vec![0x18, 0x96, 0x01], // rps = 150, which is deprecated
        vec![0x22, 0x0c, 0x0a, 0x01, b'x', 0x11, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f], // request_cost["x"] = 1.0
        double(6, 120.0),
        double(7, 3.0),
        vec![0x55, 1, 2, 3, 4], // an unknown field of 32 bits
    ]
    .concat();
    let expected = report(0.5, Some(120.0), Some(3.0));
    for length in message.len() - 5..=message.len() {
        // Cut inside the unknown field it is no message; whole or without it, it is, whatever padding that takes.
        let whole = length == message.len() || length == message.len() - 5;
        let bytes = &message[..length];
        let expected = expected.filter(|_| whole);
        assert_eq!(encoded(data_encoding::BASE64.encode(bytes).as_bytes()), expected, "{length}");
        assert_eq!(encoded(data_encoding::BASE64_NOPAD.encode(bytes).as_bytes()), expected, "{length}");
    }
    let value = format!("BIN {}", data_encoding::BASE64.encode(&message));
    assert_eq!(worded(value.as_bytes()), expected);
    let own = [double(1, 0.5), double(9, 0.75)].concat();
    assert_eq!(encoded(data_encoding::BASE64.encode(&own).as_bytes()), report(0.75, None, None));
}

#[test]
fn what_is_no_message_is_no_report() {
    let good = double(1, 0.5);
    let broken: [(&str, Vec<u8>); 11] = [
        ("nothing", vec![]),
        ("cut off", good[..8].to_vec()),
        ("twice", [good.clone(), good.clone()].concat()),
        ("negative", double(1, -0.5)),
        ("NaN", double(1, f64::NAN)),
        ("infinite", [good.clone(), double(6, f64::INFINITY)].concat()),
        ("of another type", vec![0x08, 1]),
        ("a group", [good.clone(), vec![0x0b << 3 | 3]].concat()),
        ("field 0", [good.clone(), vec![0, 1]].concat()),
        (
            "longer than it is",
            [good.clone(), vec![0x22, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]].concat(),
        ),
        ("a varint without an end", [good, vec![0x18], vec![0xff; 11]].concat()),
    ];
    for (what, bytes) in broken {
        assert_eq!(encoded(data_encoding::BASE64.encode(&bytes).as_bytes()), None, "{what}");
    }
    for value in ["=", "==", "CQAAAAAAAOA/=", "CQAAAAAAAOA/==", "CQAAAAAAA OA/", "CQAAAAAAAOA_"] {
        assert_eq!(encoded(value.as_bytes()), None, "{value}");
    }
    assert_eq!(encoded(b"CQAAAAAAAOA/"), report(0.5, None, None));
    let padded = [double(1, 0.5), [vec![0x22, 0xf5, 0x17], vec![0; 3061]].concat()].concat();
    assert!(encoded(data_encoding::BASE64.encode(&padded[..12]).as_bytes()).is_none());
    assert_eq!(encoded(data_encoding::BASE64.encode(&padded).as_bytes()), None, "longer than the limit");
}

#[test]
fn one_field_and_no_other() {
    let (text, binary) = ("TEXT cpu_utilization=0.5", "CQAAAAAAAOA/");
    let of = |fields: &[(&str, &str)]| {
        let fields: Fields = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        (fields.has(FIELDS), read(&fields))
    };
    let half = report(0.5, None, None);
    assert_eq!(of(&[("server", "x")]), (false, None));
    assert_eq!(of(&[("Endpoint-Load-Metrics", text)]), (true, half));
    assert_eq!(of(&[("endpoint-load-metrics-bin", binary)]), (true, half));
    assert_eq!(of(&[("endpoint-load-metrics", binary)]), (true, None));
    assert_eq!(of(&[("endpoint-load-metrics", text), ("endpoint-load-metrics", text)]), (true, None));
    assert_eq!(of(&[("endpoint-load-metrics", text), ("endpoint-load-metrics-bin", binary)]), (true, None));
    assert_eq!(of(&[("endpoint-load-metrics-bin", binary), ("endpoint-load-metrics-bin", binary)]), (true, None));
}

proptest! {
    /// Whatever comes, what is made of it is finite and above 0.
    #[test]
    fn nothing_breaks_it(bytes in prop::collection::vec(any::<u8>(), 0..200), word in 0..4usize) {
        let value = [[&b"TEXT "[..], b"JSON ", b"BIN ", b""][word], &bytes].concat();
        let message = binary::read(&bytes).and_then(Report::usable);
        for report in [worded(&value), encoded(&value), message].into_iter().flatten() {
            prop_assert!(report.utilization > 0.0 && report.utilization.is_finite());
            prop_assert!(report.rps.is_none_or(|rps| rps > 0.0 && rps.is_finite()));
        }
    }

    /// The three forms of one report say the same.
    #[test]
    fn all_forms_agree(cpu in 0.0..5.0f64, application in 0.0..5.0f64, rps in 0.0..1e6f64, eps in 0.0..1e6f64) {
        let text = format!(
            "TEXT cpu_utilization={cpu},application_utilization={application},rps_fractional={rps},eps={eps}"
        );
        let json = format!(
            "JSON {{\"cpu_utilization\":{cpu:?},\"application_utilization\":{application:?},\"rps_fractional\":{rps:?},\"eps\":{eps:?}}}"
        );
        let message = [double(1, cpu), double(9, application), double(6, rps), double(7, eps)].concat();
        let expected = LoadReport::new(if application > 0.0 { application } else { cpu }, rps, eps);
        prop_assert_eq!(worded(text.as_bytes()), expected);
        prop_assert_eq!(encoded(data_encoding::BASE64_NOPAD.encode(&message).as_bytes()), expected);
        // serde_json may be off by the last bit.
        prop_assert_eq!(worded(json.as_bytes()).is_some(), expected.is_some());
    }
}
