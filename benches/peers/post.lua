-- 16 KiB posts that go round the assets.
local assets, at, body = { "BTC", "ETH", "DOGE" }, 0, string.rep("x", 16384)
request = function()
   at = at % #assets + 1
   return wrk.format("POST", "/v1/predict/" .. assets[at], nil, body)
end
