// swift-tools-version:5.5
// The C library as a local package of an Xcode project. Its sources are made first:
//
//     python csrc/amalgamate.py swift/Sources/CPeel
import PackageDescription

let package = Package(
  name: "CPeel",
  platforms: [.iOS(.v12), .macOS(.v10_13)],
  products: [.library(name: "CPeel", targets: ["CPeel"])],
  targets: [.target(name: "CPeel", publicHeadersPath: ".")],
  cxxLanguageStandard: .cxx17
)
