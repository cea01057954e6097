-- GETs that go round the assets; the argument is what follows the asset in the path.
local assets, at, path = { "BTC", "ETH", "DOGE" }, 0, ""
init = function(args) path = args[1] or "" end
request = function()
   at = at % #assets + 1
   return wrk.format("GET", "/v1/predict/" .. assets[at] .. path)
end
