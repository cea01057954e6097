//! Names to numbers, built once per Plan: what a request says to what serves it.
//!
//! An asset's pools are neighbours in the Plan, sorted by region, so an asset needs a start and an end, and a region's
//! place in between: for a million pools 3 MB that caches keep, where a map by (asset, region) would be tens. Where every
//! asset is in every region there is nothing but numbers to multiply.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::Chain;
use super::hosts::Hosts;
use crate::model::{AssetId, Key, Names, Plan, PoolAsset, PoolId, RegionId};

/// The label of an asset that is not configured.
const UNKNOWN: &str = "_unknown";
/// The label of what a `*` pool serves.
const ANY: &str = "*";

/// Names to numbers, for one Plan.
#[derive(Debug)]
pub struct Index {
    /// The Plan whose numbers these are.
    pub plan: Arc<Plan>,
    pub(super) hosts: Hosts,
    route_names: Box<[Arc<str>]>,
    assets: Names,
    regions: Names,
    clients_v4: PrefixMap<Ipv4Net, RegionId>,
    clients_v6: PrefixMap<Ipv6Net, RegionId>,
    rows: Rows,
    /// By pool: its region.
    columns: Box<[RegionId]>,
    /// By region: its `*` pool.
    any: Box<[Option<PoolId>]>,
    unknown: Arc<str>,
    star: Arc<str>,
}

/// By asset: its first pool and the one after its last.
#[derive(Debug)]
enum Rows {
    /// Every asset has one in every region, and theirs are the first of all.
    Even {
        assets: u32,
        each: u32,
    },
    Uneven(Box<[(u32, u32)]>),
}

impl Rows {
    fn new(rows: Vec<(u32, u32)>, regions: usize) -> Self {
        let (assets, each) = (rows.len() as u32, regions as u32);
        let is_even = |(asset, row): (u32, &(u32, u32))| *row == (asset * each, (asset + 1) * each);
        match (0..).zip(&rows).all(is_even) {
            true => Self::Even { assets, each },
            false => Self::Uneven(rows.into()),
        }
    }

    #[inline]
    fn get(&self, asset: AssetId) -> Option<(u32, u32)> {
        match self {
            Self::Even { assets, each } => (asset.0 < *assets).then(|| (asset.0 * each, (asset.0 + 1) * each)),
            Self::Uneven(rows) => rows.get(asset.index()).copied(),
        }
    }
}

impl Index {
    /// An index of this Plan.
    pub fn new(plan: Arc<Plan>) -> Self {
        let aliases = plan.assets.iter().map(|asset| asset.aliases.len()).sum::<usize>();
        let mut assets = Names::with_capacity(plan.assets.len() + aliases);
        // A name that is there already keeps its number; a checked Plan has none twice. Names go before aliases.
        for (number, asset) in (0..).zip(&plan.assets) {
            let _ = assets.insert(&asset.name, number);
        }
        for (number, asset) in (0..).zip(&plan.assets) {
            for alias in &asset.aliases {
                let _ = assets.insert(alias, number);
            }
        }
        let mut regions = Names::with_capacity(plan.regions.len());
        let (mut clients_v4, mut clients_v6) = (PrefixMap::new(), PrefixMap::new());
        for (number, region) in (0..).zip(&plan.regions) {
            let _ = regions.insert(&region.name, u32::from(number));
            for net in &region.clients {
                match unmapped(*net) {
                    IpNet::V4(net) => clients_v4.entry(net.trunc()).or_insert(RegionId(number)),
                    IpNet::V6(net) => clients_v6.entry(net.trunc()).or_insert(RegionId(number)),
                };
            }
        }
        let mut rows = vec![(0, 0); plan.assets.len()];
        let mut any = vec![None; plan.regions.len()];
        for (number, pool) in (0..).zip(&plan.pools) {
            match pool.asset {
                PoolAsset::Named(asset) => {
                    let row = &mut rows[asset.index()];
                    if row.1 == 0 {
                        row.0 = number;
                    }
                    row.1 = number + 1;
                }
                PoolAsset::Any => any[pool.region.index()] = Some(PoolId(number)),
            }
        }
        debug_assert!(is_sorted(&plan), "a Plan's pools are sorted by asset and region");
        Self {
            hosts: Hosts::new(&plan.routes),
            route_names: plan.routes.iter().map(|route| route.name.as_str().into()).collect(),
            assets,
            regions,
            clients_v4,
            clients_v6,
            rows: Rows::new(rows, any.len()),
            columns: plan.pools.iter().map(|pool| pool.region).collect(),
            any: any.into(),
            unknown: UNKNOWN.into(),
            star: ANY.into(),
            plan,
        }
    }

    /// The asset of this name or alias, in whatever case.
    pub fn asset(&self, name: impl AsRef<[u8]>) -> Option<AssetId> {
        self.assets.find(name).map(AssetId)
    }

    /// The region of this name, in whatever case.
    pub fn region(&self, name: impl AsRef<[u8]>) -> Option<RegionId> {
        self.regions.find(name).and_then(|number| u16::try_from(number).ok()).map(RegionId)
    }

    /// The asset that the file spells like this.
    pub fn asset_spelled(&self, name: &str) -> Option<AssetId> {
        self.asset(name).filter(|id| self.plan.assets.get(id.index()).is_some_and(|asset| *asset.name == *name))
    }

    /// The region that the file spells like this.
    pub fn region_spelled(&self, name: &str) -> Option<RegionId> {
        self.region(name).filter(|id| self.plan.regions.get(id.index()).is_some_and(|region| *region.name == *name))
    }

    /// The region whose `clients` hold the longest prefix of this address. `::ffff:10.1.0.1` is 10.1.0.1.
    pub fn region_of(&self, address: IpAddr) -> Option<RegionId> {
        if self.clients_v4.is_empty() && self.clients_v6.is_empty() {
            return None;
        }
        match address.to_canonical() {
            IpAddr::V4(v4) => self.clients_v4.get_lpm(&host_v4(v4)?).map(|(_, region)| *region),
            IpAddr::V6(v6) => self.clients_v6.get_lpm(&host_v6(v6)?).map(|(_, region)| *region),
        }
    }

    /// The pool that stands in the file for this asset (`None`: for `*`) in this region.
    pub fn own_pool(&self, asset: Option<AssetId>, region: RegionId) -> Option<PoolId> {
        match asset {
            Some(asset) => self.in_row(self.rows.get(asset)?, region),
            None => self.any.get(region.index()).copied().flatten(),
        }
    }

    #[inline]
    fn in_row(&self, (start, end): (u32, u32), region: RegionId) -> Option<PoolId> {
        // Most assets are everywhere. Then a region's place is its number, and there is nothing to look up.
        let place = if (end - start) as usize == self.any.len() {
            region.index()
        } else {
            self.columns.get(start as usize..end as usize)?.binary_search(&region).ok()?
        };
        Some(PoolId(start + place as u32))
    }

    /// The pools that may serve a key, in failover order: its region's, then the fallback regions'; in each the asset's
    /// own pool, else the `*` pool.
    pub fn chain(&self, key: Key) -> Chain {
        let mut chain = Chain::EMPTY;
        let row = key.asset.and_then(|asset| self.rows.get(asset)).unwrap_or_default();
        let fallback = self.plan.regions.get(key.region.index()).map_or(&[][..], |region| &region.fallback);
        for &region in std::iter::once(&key.region).chain(fallback) {
            if let Some(pool) = self.in_row(row, region).or_else(|| self.own_pool(None, region))
                && !chain.push(pool)
            {
                break;
            }
        }
        chain
    }

    /// An asset in labels: its name; `*` if only `*` pools know it; `_unknown` if nothing does.
    pub fn asset_label(&self, key: Key) -> Arc<str> {
        let known = key.asset.and_then(|asset| self.plan.assets.get(asset.index()));
        let label = match known {
            Some(asset) => &asset.name,
            None if self.chain(key).is_empty() => &self.unknown,
            None => &self.star,
        };
        Arc::clone(label)
    }

    /// A pool in labels: its asset and its region as the file spells them.
    ///
    /// # Panics
    /// With the number of a pool of another Plan that has more of them.
    pub fn pool_labels(&self, id: PoolId) -> (Arc<str>, Arc<str>) {
        let pool = &self.plan.pools[id.index()];
        let asset = match pool.asset {
            PoolAsset::Named(asset) => &self.plan.assets[asset.index()].name,
            PoolAsset::Any => &self.star,
        };
        (Arc::clone(asset), Arc::clone(&self.plan.regions[pool.region.index()].name))
    }

    /// A route in labels and logs.
    ///
    /// # Panics
    /// With the number of a route of another Plan that has more of them.
    pub fn route_name(&self, route: usize) -> &Arc<str> {
        &self.route_names[route]
    }
}

fn is_sorted(plan: &Plan) -> bool {
    plan.pools.is_sorted_by_key(|pool| match pool.asset {
        PoolAsset::Named(asset) => (false, Some(asset), pool.region),
        PoolAsset::Any => (true, None, pool.region),
    })
}

/// A prefix of mapped addresses, as the IPv4 prefix it stands for.
fn unmapped(net: IpNet) -> IpNet {
    if let IpNet::V6(v6) = net
        && let Some(address) = v6.addr().to_ipv4_mapped()
        && let Some(length) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(address, length)
    {
        return IpNet::V4(v4);
    }
    net
}

fn host_v4(address: Ipv4Addr) -> Option<Ipv4Net> {
    Ipv4Net::new(address, 32).ok()
}

fn host_v6(address: Ipv6Addr) -> Option<Ipv6Net> {
    Ipv6Net::new(address, 128).ok()
}
