#include "src/blob.h"

#include <gtest/gtest.h>

#include <vector>

#include "packqvit/backend.h"
#include "tests/support/delegate.h"
#include "tests/support/log.h"

namespace packqvit {
namespace {

using executorch::runtime::Error;

class BlobTest : public testing::Test {
 protected:
  void expect_refused(const std::vector<uint8_t>& blob, const std::string& reason) {
    clear_log();
    const auto result = read_blob(blob.data(), blob.size());
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error(), Error::DelegateInvalidCompatibility);
    EXPECT_NE(last_log().find(reason), std::string::npos) << last_log();
  }

  Random random_{1};
  PlanBuilder plan_ = tiny_transformer(random_, false);
  std::vector<uint8_t> blob_ = plan_.blob();
};

TEST_F(BlobTest, ReadsAnIntactBlobAtAnyAlignment) {
  for (size_t offset = 0; offset < 9; ++offset) {
    std::vector<uint8_t> shifted(offset);
    shifted.insert(shifted.end(), blob_.begin(), blob_.end());
    const auto result = read_blob(shifted.data() + offset, blob_.size());
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->plan().nodes()->size(), plan_.plan.nodes.size());
  }
}

TEST_F(BlobTest, RefusesEveryTruncation) {
  for (size_t size = 0; size < blob_.size(); ++size) {
    const std::vector<uint8_t> truncated(blob_.begin(), blob_.begin() + static_cast<std::ptrdiff_t>(size));
    expect_refused(truncated, size < kBlobHeaderSize ? "without the PackQViT header" : "truncated");
  }
  blob_.push_back(0);
  expect_refused(blob_, "truncated or damaged");
  EXPECT_EQ(read_blob(nullptr, 0).error(), Error::DelegateInvalidCompatibility);
}

TEST_F(BlobTest, RefusesEveryFlippedBitOfTheHeaderAndThePlan) {
  for (size_t bit = 0; bit < 8 * blob_.size(); ++bit) {
    blob_[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    expect_refused(blob_, "packqvit: ");
    blob_[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
  }
}

TEST_F(BlobTest, SaysWhatToDo) {
  auto blob = blob_;
  blob[8] = kPlanVersion + 1;
  expect_refused(blob, "update the runtime");
  blob[8] = 0;
  expect_refused(blob, "export again");
  blob = blob_;
  blob[0] = 'X';
  expect_refused(blob, "was the file exported by packqvit_delegate?");
  blob = blob_;
  blob.back() ^= 1;
  expect_refused(blob, "checksum");
}

TEST_F(BlobTest, RefusesWhatIsNoFlatBufferUnderAGoodChecksum) {
  expect_refused(make_blob({}), "not a valid FlatBuffer");
  expect_refused(make_blob(std::vector<uint8_t>(64, 0xFF)), "not a valid FlatBuffer");
  std::vector<uint8_t> plan(blob_.begin() + kBlobHeaderSize, blob_.end());
  plan[5] ^= 1;  // the file identifier
  expect_refused(make_blob(plan), "not a valid FlatBuffer");
}

}  // namespace
}  // namespace packqvit
