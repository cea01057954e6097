//! An explanation for people: one decision a line, in the order in which they fall.

use std::fmt::{self, Write};

use super::{Explanation, ServerSeen, SourceRead, TierSeen};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client = self.client.map_or_else(String::new, |client| format!(" from {client}"));
        line(f, "request", &format!("{} {}{}{client}", self.method, self.host, self.path))?;
        if let Some(route) = &self.route {
            line(f, "route", &format!("{} ({})", route.name, route.why))?;
            if let Some(answer) = &route.answer {
                line(f, "action", &format!("{}: {answer}", route.action))?;
            }
        }
        for read in &self.sources {
            line(f, read.part, &source(read))?;
        }
        if let (Some(asset), Some(region)) = (&self.asset, &self.region) {
            line(f, "key", &format!("{asset} in {region}"))?;
        }
        if !self.pools.is_empty() {
            let pools: Vec<_> = self.pools.iter().map(|pool| format!("{}/{}", pool.asset, pool.region)).collect();
            line(f, "pools", &pools.join(", then "))?;
        }
        for tier in &self.tiers {
            write_tier(f, tier)?;
        }
        if let Some(pick) = &self.pick {
            line(f, "backend", &format!("{} in {} ({}): {}", pick.backend, pick.region, pick.role, pick.why))?;
        }
        if let Some(refusal) = &self.refusal {
            let allow = refusal.allow.as_ref().map_or_else(String::new, |allow| format!("; it takes {allow}"));
            line(f, "refused", &format!("{}: {}{allow}", refusal.reason, refusal.why))?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, label: &str, text: &str) -> fmt::Result {
    write!(f, "{label:<8} ")?;
    for c in text.chars() {
        // What came with the request may hold control characters, and a terminal would obey them.
        if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
    }
    f.write_char('\n')
}

fn source(read: &SourceRead) -> String {
    let (source, value) = (&read.source, read.value.as_deref().unwrap_or_default());
    match read.result {
        "absent" => format!("{source} says nothing"),
        "falls-through" => format!("{source} says {value}, which is not configured: the next one"),
        "unknown" => format!("{source} says {value}, which is not configured"),
        _ => format!("{source} says {value}"),
    }
}

fn write_tier(f: &mut fmt::Formatter<'_>, tier: &TierSeen) -> fmt::Result {
    let TierSeen { asset, region, role, load, health, .. } = tier;
    let panic = if tier.panic { ", in panic" } else { "" };
    line(f, "tier", &format!("{load:>3} % to {asset}/{region} {role}: health {health} %{panic}"))?;
    let width = tier.servers.iter().map(|server| server.backend.len()).max().unwrap_or(0);
    for ServerSeen { backend, tls, weight, state, usable, in_flight, latency, load_weight } in &tier.servers {
        let mark = if *usable { '+' } else { '-' };
        let latency = latency.map_or_else(String::new, |seconds| format!(", answers in {:.1} ms", seconds * 1e3));
        let tls = match tls {
            None => String::new(),
            Some(tls) if tls.verified => format!(", TLS as {}", tls.name),
            Some(_) => ", TLS as anyone".to_owned(),
        };
        let says = load_weight.map_or_else(String::new, |load| format!(" x {load:.2}"));
        line(
            f,
            "",
            &format!(
                "      {mark} {backend:<width$}  weight {weight}{says}, {in_flight} in flight, {state}{latency}{tls}"
            ),
        )?;
    }
    Ok(())
}
