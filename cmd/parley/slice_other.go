//go:build !linux

package main

func quicken() {}
