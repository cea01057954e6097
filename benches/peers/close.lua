-- GETs that each end their connection.
local assets, at = { "BTC", "ETH", "DOGE" }, 0
request = function()
   at = at % #assets + 1
   return wrk.format("GET", "/v1/predict/" .. assets[at], { ["Connection"] = "close" })
end
