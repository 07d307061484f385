; api is the name that users have. The others always name one region, for those who operate it.
@    SOA ns-us-east hostmaster ( 1 7200 1800 259200 30 )
@    NS  ns-us-east
@    NS  ns-eu-west
@    NS  ns-ap-northeast
ns-us-east      A 192.0.2.253
ns-eu-west      A 198.51.100.253
ns-ap-northeast A 203.0.113.253
api                DYNA geoip!api
api-us-east        DYNA geoip!api/us-east
api-eu-west        DYNA geoip!api/eu-west
api-ap-northeast   DYNA geoip!api/ap-northeast
