module github.com/weftcloud/weft/proto

go 1.26
